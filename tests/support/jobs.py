"""The commands, called in this process, and what becomes of wrong input."""

from importlib import import_module

from click.testing import CliRunner


def invoke(job: str, *arguments: object):
    command = import_module(f"jobs.{job}").main
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def refused(result, *parts: str) -> None:
    """One line that says what is wrong, nothing on stdout, exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    for part in parts:
        assert part in error
