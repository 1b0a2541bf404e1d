"""Cutting length-sorted rows into batches, and what computation needs to know of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from fastbert.packed.transfer import on_device

Lengths = NDArray[np.int64]

#: Batches are read on into the tokens that follow, up to a multiple of this. oneDNN keeps what it
#: has compiled for every number of tokens it meets; if they did not repeat, that fills the memory.
ROUND = 64


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

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Their part of packed tokens (P, .): (rows, length, .)."""
        return x[self.tokens].view(self.rows, self.length, -1)

    def cut(self, rows: int) -> "Iterator[Group]":
        """Groups of at most so many of the rows, of powers of 2 or half as many more, so that sizes
        repeat."""
        start, left = self.tokens.start, self.rows
        while left:
            most = min(rows, left)
            power = 1 << (most.bit_length() - 1)
            few = power * 3 // 2 if power * 3 // 2 <= most else power
            yield Group(slice(start, start + few * self.length), few, self.length)
            start, left = start + few * self.length, left - few


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


class Batch:
    """Rows that go through a layer together, one behind the other, longest first.

    Letters: n rows; P tokens, with some behind those of the rows, which are of none: what is
    computed of them means nothing.
    """

    def __init__(
        self,
        lengths: Lengths,
        begin: int = 0,
        device: torch.device | str = "cpu",
        ragged: bool = False,
    ) -> None:
        """`begin` is the place of the first token among those of the pool. `ragged`: attention goes
        over rows of any lengths at once (`packed.ragged`), not over groups of one length."""
        self.lengths, self.device, self.ragged = lengths, torch.device(device), ragged
        self.rows, self.tokens = len(lengths), int(lengths.sum())
        self.own = slice(begin, begin + self.tokens)
        #: With the tokens of no row: P.
        self.span = slice(begin, begin + -(-self.tokens // ROUND) * ROUND)

    @property
    def longest(self) -> int:
        """Tokens of the first row."""
        return int(self.lengths[0])

    @cached_property
    def groups(self) -> list[Group]:
        """Its rows, by length."""
        return groups(self.lengths)

    @cached_property
    def bounds(self) -> torch.Tensor:
        """Where rows begin, and the last one ends: int32 (n + 1,), on the device."""
        ends = np.zeros(self.rows + 1, np.int32)
        np.cumsum(self.lengths, out=ends[1:])
        return on_device(ends, self.device)

    @cached_property
    def row(self) -> torch.Tensor:
        """Of each token, int64 (P,); n for those of none."""
        counts = on_device(np.append(self.lengths, self.surplus), self.device)
        return torch.repeat_interleave(counts, output_size=self.tokens + self.surplus)

    @property
    def surplus(self) -> int:
        """Tokens of no row."""
        return self.span.stop - self.own.stop

    @cached_property
    def places(self) -> torch.Tensor:
        """Of each token in its row, from 0: int64 (P,); 0 for those of none."""
        places = torch.arange(self.tokens + self.surplus, device=self.device)
        places -= self.bounds.long()[self.row]
        places[self.tokens :] = 0
        return places


def cut(
    lengths: Lengths,
    max_tokens: int,
    begin: int = 0,
    device: torch.device | str = "cpu",
    ragged: bool = False,
) -> Iterator[Batch]:
    """Batches of at most so many tokens, or of one row, that cover rows, longest first; else as of
    a `Batch`."""
    start = 0
    while start < len(lengths):
        stop = start + batch_rows(lengths[start:], max_tokens)
        batch = Batch(lengths[start:stop], begin, device, ragged)
        start, begin = stop, batch.own.stop
        yield batch
