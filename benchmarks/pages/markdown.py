"""Result files, and what pages say of them."""

import json
from typing import Any

from benchmarks import RESULTS


def load(name: str) -> dict[str, Any]:
    """A result file, without why it is of an earlier commit."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    found.pop("kept", None)
    return found


def table(names: list[str], rows: list[list[Any]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def judged(found: float, target: float, most: bool = False) -> str:
    """The target, and whether it is met."""
    met = found <= target if most else found >= target
    return f"{'≤' if most else '≥'} {target:g}: {'met' if met else '**missed**'}"


def where(machine: dict[str, Any]) -> str:
    """One line about the machine."""
    known = {name: value for name, value in machine.items() if value is not None}
    versions = ", ".join(
        f"{name} {value}" for name, value in known.items() if name not in ("processor", "cores")
    )
    return f"{machine['cores']} CPU cores ({machine['processor']}), {versions}"
