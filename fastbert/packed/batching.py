"""Cutting length-sorted rows into batches and groups: pure functions on lengths."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]


def longest_first(lengths: Lengths) -> NDArray[np.int64]:
    """Row indices by falling length, ties in input order; the largest batch comes first, so that
    a device too small for it says so at once."""
    return np.argsort(-lengths, kind="stable")


def batch_rows(lengths: Lengths, max_tokens: int) -> int:
    """How many of the first rows have at most `max_tokens` tokens together; at least one."""
    # No row is empty, so there is no need to look at more of them.
    ends = np.cumsum(lengths[:max_tokens])
    return max(1, int(np.searchsorted(ends, max_tokens, side="right")))


@dataclass(frozen=True)
class Group:
    """Neighbouring rows of one length."""

    tokens: slice  # where they lie
    rows: int
    length: int  # tokens of each


def groups(lengths: Lengths) -> list[Group]:
    """The runs of equal numbers in `lengths`, their tokens counted from 0."""
    edges = np.flatnonzero(np.diff(lengths)) + 1
    bounds = [0, *edges.tolist(), len(lengths)] if len(lengths) else [0]
    found = []
    token = 0
    for start, stop in pairwise(bounds):
        length = int(lengths[start])
        end = token + (stop - start) * length
        found.append(Group(slice(token, end), stop - start, length))
        token = end
    return found
