"""Exits: the places in the network where a row may leave it.

An exit is not a layer: it lies at a depth, and several may lie at one. Everything about exits, such
as heads, thresholds and counters, is indexed by exit, 0 to E - 1, in the order in which rows reach
them; the depth is for costs and reports.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from fastbert.errors import InputError, explained

#: The paper's exits, in the syntax of `chosen`: those after a layer.
PAPER_EXITS = "1-"


class Exit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place where a row may leave."""

    #: Transformer layers passed, 0 to L.
    depth: int
    #: Kind of its classifier: "branch", "adopted" for a classifier's own head, or "bag" for one
    #: that reads token ids.
    head: str = "branch"
    #: The question that it answers.
    task: str = "label"


def exits_of(
    values: Sequence[dict[str, Any]] | None, layers: int, adopted: bool
) -> tuple[Exit, ...]:
    """Exits listed in a checkpoint's config.json; by default one after every layer, the last with
    the adopted head if there is one.

    Raises InputError if they are invalid.
    """
    if values is None:
        last = Exit(layers, "adopted" if adopted else "branch")
        return (*(Exit(depth) for depth in range(1, layers)), last)
    advice = "expected objects like {'depth': 1, 'head': 'branch'}"
    with explained("the checkpoint's exits cannot be read", advice, msgspec.ValidationError):
        exits = msgspec.convert(values, tuple[Exit, ...])
    depths = [each.depth for each in exits]
    if not exits or depths != sorted(depths) or depths[0] < 0 or depths[-1] != layers:
        raise InputError(
            f"the checkpoint's exits lie at depths {depths}; expected rising ones, the last at "
            f"{layers}, the number of layers"
        )
    if any(each.head == "bag" and each.depth for each in exits):
        raise InputError("the checkpoint's exits have a bag after a layer; expected it at depth 0")
    return exits


#: Syntax of `chosen`.
_RANGE = re.compile(r"(\d+)(-(\d+)?)?")


def chosen(text: str, exits: Sequence[Exit]) -> list[bool]:
    """Mask of the exits that `text` selects by depth: "2", "0-", "1-4" or several separated by
    commas; always with the last one. Raises InputError if it selects none."""
    depths = {each.depth for each in exits}
    named: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, span, last = found.groups() if found else ("0", "", None)
        end = max(depths) if span and last is None else int(last or first)
        some = depths & set(range(int(first), end + 1))
        if not found or not some:
            raise InputError(
                f"--exits is '{text}', expected depths or ranges of them, such as 1- or 0,2-4, of "
                f"{', '.join(map(str, sorted(depths)))}"
            )
        named |= some
    return [each.depth in named for each in exits[:-1]] + [True]
