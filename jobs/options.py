"""What all commands share: options from settings, the YAML config, exit codes and channels."""

import dataclasses
import json
import logging
import sys
import types
import typing
from importlib import import_module
from inspect import cleandoc
from textwrap import indent
from typing import Any

import click
import yaml

from fastbert.errors import FastBertError, Stopped
from jobs.commands import COMMANDS
from pipelines.running.quiet import quiet_transformers


def command(name: str) -> click.Command:
    """One of `COMMANDS`: a click command whose options are the fields of its settings.

    What it runs returns the summary: one JSON object, printed as the last line of stdout;
    everything else goes to stderr. A summary may carry its `exit_code`. FastBertErrors become one
    line and their exit code; anything unexpected keeps its traceback and exits with 1.
    """
    entry = COMMANDS[name]

    def callback(**options: Any) -> None:
        stdout, sys.stdout = sys.stdout, sys.stderr
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S"
        )
        for noisy in ("ray", "httpx", "transformers", "fsspec", "botocore", "aiobotocore"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        quiet_transformers()
        try:
            settings = entry.settings(**options)
            module, _, function = entry.runs.partition(":")
            summary = getattr(import_module(module), function)(settings)
        except (FastBertError, Stopped) as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(error.exit_code) from error
        finally:
            sys.stdout = stdout
        click.echo(json.dumps(summary, ensure_ascii=False, default=str))
        raise SystemExit(summary.get("exit_code", 0))

    kinds = typing.get_type_hints(entry.settings)
    says = cleandoc(entry.says)
    example = indent(cleandoc(entry.example), "  ")
    result = click.Command(
        name=name,
        callback=callback,
        params=[_option(field, kinds[field.name]) for field in _fields(entry.settings)],
        help=f"{says}\n\n\b\nExample:\n{example}",
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


def _fields(settings: Any) -> list[dataclasses.Field[Any]]:
    """First those without a default, and those of its own before those that it shares."""
    own = settings.__annotations__
    order = lambda f: (f.default is not dataclasses.MISSING, f.name not in own)  # noqa: E731
    return sorted(dataclasses.fields(settings), key=order)


class _Choice(click.Choice[str]):
    """One of some values; of others that once were, it says what became of them."""

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
    kind = _click_type(hint)
    if isinstance(kind, click.Choice):
        kind = _Choice(kind.choices, field.metadata["gone"])
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


def _click_type(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # X | None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return click.Choice(typing.get_args(hint))
    return hint


def _load_config(context: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    try:
        with open(path, encoding="utf-8") as file:
            # Everything as text, which click converts: YAML would read 1:8 as a number.
            settings = yaml.load(file, yaml.BaseLoader) or {}
    except (OSError, yaml.YAMLError) as error:
        raise click.BadParameter(f"cannot read {path}: {error}") from error
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
        if value in ("", "null", "~"):
            continue
        if getattr(option, "multiple", False) and not isinstance(value, list):
            value = [value]
        defaults[str(option.name)] = value
    context.default_map = defaults
