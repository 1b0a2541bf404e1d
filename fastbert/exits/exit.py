"""Exits: the places in the network where a row may leave it.

An exit is not a layer: it lies at a depth, and several may lie at one. Everything that belongs to
exits, as heads, thresholds and counters, is indexed by exit, 0 to E - 1, in the order in which a
row meets them; the depth is for costs, and for people.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from fastbert.errors import InputError, explained


class Exit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place where a row may leave."""

    #: Transformer layers passed, 0 to L.
    depth: int
    #: Kind of the classifier there: "branch", or "adopted" for a classifier's own head.
    head: str = "branch"
    #: Which question it answers.
    task: str = "label"


def exits_of(
    values: Sequence[dict[str, Any]] | None, layers: int, teacher_activation: str | None
) -> tuple[Exit, ...]:
    """Exits as a checkpoint's config.json lists them; by default one after every layer, the last
    with the adopted head if there is a `teacher_activation`.

    Raises InputError where they make no sense.
    """
    if values is None:
        last = Exit(layers, "adopted" if teacher_activation else "branch")
        return (*(Exit(depth) for depth in range(1, layers)), last)
    advice = "expected some like {'depth': 1, 'head': 'branch'}"
    with explained("the checkpoint's exits cannot be read", advice, msgspec.ValidationError):
        exits = msgspec.convert(values, tuple[Exit, ...])
    depths = [each.depth for each in exits]
    if not exits or depths != sorted(depths) or depths[0] < 0 or depths[-1] != layers:
        raise InputError(
            f"the checkpoint's exits lie at depths {depths}; expected rising ones, the last at "
            f"{layers}, the number of layers"
        )
    return exits
