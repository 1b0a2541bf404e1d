"""The commands, called in this process, and what becomes of wrong input."""

from click.testing import CliRunner

from jobs.options import command


def invoke(job: str, *arguments: object):
    return CliRunner().invoke(command(job), [str(argument) for argument in arguments])


def refused(result, *parts: str) -> None:
    """One line that says what is wrong, nothing on stdout, exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    for part in parts:
        assert part in error
