"""Programs of several parts, each of which writes its own part of one JSON file."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.support.measure import machine

Part = Callable[..., dict[str, Any]]


def of(group: click.Group, *packages: str) -> Callable[[Part], click.Command]:
    """Makes a command of `group` of a function that takes a folder to work in, and its options:
    what it finds goes into the JSON under its name, with the versions of `packages`."""

    def part(function: Part) -> click.Command:
        def run(work: Path, output: Path, **options: Any) -> None:
            work.mkdir(parents=True, exist_ok=True)
            print(machine(*packages), file=sys.stderr)
            found = {"options": options, "machine": machine(*packages), **function(work, **options)}
            known = json.loads(output.read_text()) if output.exists() else {}
            output.write_text(json.dumps(known | {function.__name__: found}, indent=1) + "\n")
            print(json.dumps(found))

        folder = click.Path(path_type=Path)
        command = click.command(function.__name__, help=function.__doc__)(run)
        command.params = [
            *getattr(function, "__click_params__", []),
            click.Option(["--work"], required=True, type=folder, help="Where to generate data."),
            click.Option(["--output"], required=True, type=folder, help="The JSON file."),
        ]
        group.add_command(command)
        return command

    return part
