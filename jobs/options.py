"""The common part of all commands: options from settings, YAML config, exit codes and streams."""

import contextlib
import dataclasses
import os
import signal
import sys
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from inspect import cleandoc
from textwrap import indent
from typing import Any

import click

from fastbert.errors import FastBertError, InputError, Stopped
from fastbert.filesystem import FULL
from jobs.commands import COMMANDS
from jobs.streams import print_summary, repair_streams
from pipelines.running.quiet import log_to_stderr


def command(name: str) -> click.Command:
    """One of `COMMANDS`: a click command whose options are the fields of its settings.

    Its function returns the summary: one JSON object, printed as the last line of stdout;
    everything else goes to stderr. A summary may have an `exit_code`. FastBertErrors, and failures
    common to all commands, become one line and an exit code; any other error keeps its traceback
    and exits with 1.
    """
    entry = COMMANDS[name]

    def callback(**options: Any) -> None:
        repair_streams()
        stdout, sys.stdout = sys.stdout, sys.stderr
        log_to_stderr()
        with _one_line():
            try:
                _check_here()
                settings = entry.settings(**options)
                module, _, function = entry.runs.partition(":")
                summary = getattr(import_module(module), function)(settings)
            finally:
                sys.stdout = stdout
            # A command with --json has already shown its tables on a terminal.
            if getattr(settings, "json", True) or not stdout.isatty():
                print_summary(summary, stdout)
        raise SystemExit(summary.get("exit_code", 0))

    # Required options first; then the command's own before those that it shares.
    own, kinds = entry.settings.__annotations__, typing.get_type_hints(entry.settings)
    order = lambda f: (f.default is not dataclasses.MISSING, f.name not in own)  # noqa: E731
    fields = sorted(dataclasses.fields(entry.settings), key=order)
    says = cleandoc(entry.says)
    result = click.Command(
        name=name,
        callback=callback,
        params=[_option(field, kinds[field.name]) for field in fields],
        help=f"{says}\n\n\b\nExample:\n{indent(entry.example, '  ')}",
        short_help=says.partition("\n\n")[0],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    result.params.append(
        click.Option(
            ["--config"],
            type=click.Path(),
            callback=_load_config,
            is_eager=True,
            expose_value=False,
            help="YAML file with any of these options, without the dashes; the command line wins.",
        )
    )
    return result


def _check_here() -> None:
    """Raises InputError if the working directory no longer exists, which fails imports."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"the working directory no longer exists ({error.strerror}); cd to another one"
        ) from error


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """End the process with one line on stderr, and an exit code, for expected errors."""
    code = FastBertError.exit_code
    try:
        yield
        return
    except (FastBertError, Stopped) as error:
        code, said = error.exit_code, str(error)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends at once, silently
        code, said = 130, "stopped by Ctrl-C"
    except MemoryError:
        said = "there is not enough memory; pass less data, or use a larger machine"
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("fastbert", "pipelines", "jobs"):
            raise
        said = f"the package {error.name} is missing; install fastbert-ray again"
    except OSError as error:
        if error.errno not in FULL:
            raise
        place = f" for {error.filename}" if error.filename else ""
        said = f"{os.strerror(error.errno)}{place}; make room, and run again"
    click.echo(f"Error: {' '.join(said.splitlines())}", err=True)  # names may have line breaks
    raise SystemExit(code)


class _Choice(click.Choice[str]):
    """A choice of values; for values that were removed, the error says what replaced them."""

    def __init__(self, choices: typing.Sequence[str], gone: dict[str, str]) -> None:
        super().__init__(choices)
        self.gone = gone

    def convert(self, value: Any, param: click.Parameter | None, context: Any) -> str:
        if value in self.gone:
            self.fail(f"'{value}': {self.gone[value]}.", param, context)
        return super().convert(value, param, context)


def _option(field: dataclasses.Field[Any], hint: Any) -> click.Option:
    flag = field.name.replace("_", "-")
    many = typing.get_origin(hint) is tuple
    kind = _click_type(hint, field.metadata["gone"])
    required = field.default is dataclasses.MISSING
    options: dict[str, Any] = {"help": field.metadata["help"], "required": required}
    if not required:
        options["default"] = field.default
        options["show_default"] = field.default not in (None, (), False)
    if kind is bool:
        # On by default: offer the way to switch it off.
        name = f"--{flag}/--no-{flag}" if field.default else f"--{flag}"
        return click.Option([name, field.name], is_flag=True, **options)
    return click.Option([f"--{flag}", field.name], type=kind, multiple=many, **options)


def _click_type(hint: Any, gone: dict[str, str]) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # X | None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return _Choice(typing.get_args(hint), gone)
    return hint


def _load_config(context: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    import yaml  # only needed for --config

    try:
        with open(path, "rb") as file:  # bytes: yaml detects the encoding
            # Everything as text, which click converts: YAML would read 1:8 as a number.
            settings = yaml.load(file, yaml.BaseLoader) or {}
    except (OSError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise click.BadParameter(f"cannot read {path}: {said}") from error
    if not isinstance(settings, dict):
        raise click.BadParameter(f"{path} must map option names to values")
    names = {str(p.name).replace("_", "-"): p for p in context.command.params if p.expose_value}
    defaults = {}
    for key, value in settings.items():
        option = names.get(str(key).replace("_", "-"))
        if option is None:
            raise click.BadParameter(
                f"'{key}' in {path} is not an option; the options are {', '.join(sorted(names))}"
            )
        many = getattr(option, "multiple", False)
        values = value if many and isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in values):
            raise click.BadParameter(
                f"'{key}' in {path} is {value}, expected one value{' or a list' * many}"
            )
        if value not in ("", "null", "~"):
            defaults[str(option.name)] = values if many else value
    context.default_map = defaults
