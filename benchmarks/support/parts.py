"""Programs of several parts, each of which writes its own part of one JSON file."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from benchmarks.support.measure import machine

Found = dict[str, Any]
#: Gives what it finds, or what it has found so far, again and again.
Part = Callable[..., Found | Iterable[Found]]


def of(group: click.Group, *packages: str) -> Callable[[Part], click.Command]:
    """Makes a command of `group` of a function that takes a folder to work in, and its options:
    what it finds goes into the JSON under its name, with the versions of `packages`."""

    def part(function: Part) -> click.Command:
        def run(work: Path, output: Path, **options: Any) -> None:
            work.mkdir(parents=True, exist_ok=True)
            print(machine(*packages), file=sys.stderr)
            facts = {"options": options, "machine": machine(*packages)}
            found = function(work, **options)
            for each in [found] if isinstance(found, dict) else found:
                known = json.loads(output.read_text()) if output.exists() else {}
                known[function.__name__] = facts | each
                output.write_text(json.dumps(known, indent=1) + "\n")
                print(json.dumps(facts | each))

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
