"""Division of length-sorted rows into batches, and the layout of a batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from fastbert.packed.transfer import on_device

Lengths = NDArray[np.int64]

#: Batches are extended over the following tokens to a multiple of this. oneDNN caches compiled code
#: for every number of tokens; if they did not repeat, that would fill the memory.
ROUND = 64


def longest_first(lengths: Lengths) -> NDArray[np.int64]:
    """Row indices by decreasing length, ties in input order; the largest batch comes first, so that
    a device without enough memory fails at once."""
    return np.argsort(-lengths, kind="stable")


def batch_rows(lengths: Lengths, max_tokens: int) -> int:
    """How many of the first rows have at most `max_tokens` tokens together; at least one."""
    # No row is empty, so more rows need not be checked.
    ends = np.cumsum(lengths[:max_tokens])
    return max(1, int(np.searchsorted(ends, max_tokens, side="right")))


@dataclass(frozen=True)
class Group:
    """Consecutive rows of equal length."""

    tokens: slice  # their place
    rows: int
    length: int  # tokens of each

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Their part of packed tokens (P, .): (rows, length, .)."""
        return x[self.tokens].view(self.rows, self.length, -1)

    def cut(self, rows: int) -> "Iterator[Group]":
        """Groups of at most `rows` rows, with sizes 2^k or 1.5 * 2^k, so that sizes repeat."""
        start, left = self.tokens.start, self.rows
        while left:
            most = min(rows, left)
            power = 1 << (most.bit_length() - 1)
            few = power * 3 // 2 if power * 3 // 2 <= most else power
            yield Group(slice(start, start + few * self.length), few, self.length)
            start, left = start + few * self.length, left - few


def groups(lengths: Lengths) -> list[Group]:
    """The runs of equal numbers in `lengths`, with tokens counted from 0."""
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
    """Rows that go through a layer together, concatenated, longest first.

    Letters: n rows; P tokens, including further ones of no row at the end, whose results have no
    meaning.
    """

    def __init__(
        self,
        lengths: Lengths,
        begin: int = 0,
        device: torch.device | str = "cpu",
        ragged: bool = False,
    ) -> None:
        """`begin` is the place of the first token in the pool. `ragged`: attention runs over rows
        of any lengths at once (`packed.ragged`), not over groups of equal length."""
        self.lengths, self.device, self.ragged = lengths, torch.device(device), ragged
        self.rows, self.tokens = len(lengths), int(lengths.sum())
        self.own = slice(begin, begin + self.tokens)
        #: Including tokens of no row: P.
        self.span = slice(begin, begin + -(-self.tokens // ROUND) * ROUND)

    @property
    def longest(self) -> int:
        """Tokens of the first row."""
        return int(self.lengths[0])

    @cached_property
    def groups(self) -> list[Group]:
        """Its rows, grouped by length."""
        return groups(self.lengths)

    @cached_property
    def bounds(self) -> torch.Tensor:
        """Starts of the rows, and the end of the last one: int32 (n + 1,), on the device."""
        ends = np.zeros(self.rows + 1, np.int32)
        np.cumsum(self.lengths, out=ends[1:])
        return on_device(ends, self.device)

    @cached_property
    def row(self) -> torch.Tensor:
        """Row of each token, int64 (P,); n for those of no row."""
        counts = on_device(np.append(self.lengths, self.surplus), self.device)
        return torch.repeat_interleave(counts, output_size=self.tokens + self.surplus)

    @property
    def surplus(self) -> int:
        """The tokens of no row."""
        return self.span.stop - self.own.stop

    @cached_property
    def places(self) -> torch.Tensor:
        """Position of each token in its row, from 0: int64 (P,); 0 for those of no row."""
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
    """Batches of at most `max_tokens` tokens, or of one row, that cover rows, longest first;
    otherwise as for a `Batch`."""
    start = 0
    while start < len(lengths):
        stop = start + batch_rows(lengths[start:], max_tokens)
        batch = Batch(lengths[start:stop], begin, device, ragged)
        start, begin = stop, batch.own.stop
        yield batch
