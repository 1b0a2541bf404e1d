"""The exit before the first layer: a few learned numbers per token and per frequent pair of tokens,
their mean, and a small head.

It is a linear model over words and pairs of words, as in fastText (Joulin et al. 2017), with a
hidden layer, taught by the last exit. It reads token ids, so a row that leaves here needs no
encoder.

Letters: B batch, T tokens, M tokens of n rows together, V vocabulary, W tokens and P pairs with D
numbers each, N outputs of a head.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

#: Multipliers of the hash of a pair; odd, so that every bit counts (Knuth, 6.4).
_FIRST, _SECOND = -1640531535, 668265263
#: Slots of the hash table per pair: of two pairs in one slot, only the first is kept.
_SPREAD = 8
#: Multiplier of the key of a pair in a slot: exact for up to 65,536 token ids, almost so for more.
_CHECK = 65536


class Bag(nn.Module):
    """The mean over tokens of their numbers and of those of the pairs that begin there; Linear D ->
    H, ReLU, Linear H -> N.

    Unknown tokens and pairs count as zeros.
    """

    tokens: torch.Tensor  # int32 (W,), ids
    pairs: torch.Tensor  # int32 (P, 2), ids
    #: One row for each, after a first row of zeros.
    numbers: nn.Embedding

    def __init__(
        self, vocabulary: int, tokens: int, pairs: int, size: int, hidden: int, num_labels: int
    ) -> None:
        """V; W and P, whose ids are set later in `tokens` and `pairs`; D, H and N."""
        super().__init__()
        self.vocabulary = vocabulary
        self.register_buffer("tokens", torch.zeros(tokens, dtype=torch.int32))
        self.register_buffer("pairs", torch.zeros(pairs, 2, dtype=torch.int32))
        self.numbers = nn.Embedding(1 + tokens + pairs, size, padding_idx=0)
        self.dense = nn.Linear(size, hidden)
        self.classifier = nn.Linear(hidden, num_labels)
        self._found: Lookup | None = None

    @property
    def lookup(self) -> "Lookup":
        """Logits from rows of `numbers`."""
        if self._found is None or self._found.places.device != self.tokens.device:
            self._found = Lookup(self.tokens, self.pairs, self.vocabulary)
        return self._found

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Token ids (B, T) and a boolean token mask (B, T), or None, to logits (B, N)."""
        mask = torch.ones_like(hidden, dtype=torch.bool) if mask is None else mask
        lengths = mask.sum(1)
        return self.answer(hidden[mask].int(), (lengths.cumsum(0) - lengths).int())

    def answer(self, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Token ids int32 (M,) of rows that begin at `starts` int32 (n,) to logits (n, N)."""
        return self.read(self.lookup(ids, starts), starts)

    def read(
        self, rows: list[torch.Tensor], starts: torch.Tensor, kept: float = 1.0
    ) -> torch.Tensor:
        """The same from results of `lookup`, of which a share is `kept`, and the others are 0."""
        ends = torch.cat([starts[1:], starts.new_tensor([len(rows[0])])])
        # Row 0 is zeros. Declaring it as padding, which training needs, is slower.
        options: Any = {"sparse": True, "padding_idx": 0} if self.training else {}

        def summed(each: torch.Tensor) -> torch.Tensor:
            weight = self.numbers.weight
            return functional.embedding_bag(each, weight, starts, mode="sum", **options)

        own, *joint = map(summed, rows)
        mean = sum(joint, own) / (kept * (ends - starts)[:, None])
        logits: torch.Tensor = self.classifier(torch.relu(self.dense(mean)))
        return logits

    def flops(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """FLOPs of rows of these lengths: 2 per added number, of every token and every pair, and
        the head."""
        size, hidden = self.dense.in_features, self.dense.out_features
        features = 2 * lengths - 1 if len(self.pairs) else lengths
        return 2 * features * size + 2 * hidden * (size + self.classifier.out_features)


class Lookup:
    """Table from token ids to the rows of tokens and pairs, 0 for unknown ones."""

    def __init__(self, tokens: torch.Tensor, pairs: torch.Tensor, vocabulary: int) -> None:
        """For ids (W,) and (P, 2), which have the rows from 1 on in this order."""
        options: Any = {"dtype": torch.int32, "device": tokens.device}
        rows = torch.arange(1, 1 + len(tokens) + len(pairs), **options)
        self.places = torch.zeros(vocabulary, **options)
        self.places[tokens.long()] = rows[: len(tokens)]
        slots = _slots(len(pairs))
        self.checks, self.rows = torch.zeros(slots, **options), torch.zeros(slots, **options)
        first, second = pairs.unbind(1)
        at = _slot(first, second, slots).long()
        self.checks[at], self.rows[at] = _check(first, second), rows[len(tokens) :]

    def __call__(self, ids: torch.Tensor, starts: torch.Tensor) -> list[torch.Tensor]:
        """Token ids int32 (M,) of rows that begin at `starts` (n,) to the rows of their tokens,
        and, if any pair is known, of the pairs that begin there: int32 (M,) each."""
        found = [self.places.index_select(0, ids)]
        if len(self.rows):
            following = ids.roll(-1)
            slot = _slot(ids, following, len(self.rows))
            same = self.checks.index_select(0, slot) == _check(ids, following)
            joint = self.rows.index_select(0, slot).mul_(same)
            joint[starts - 1] = 0  # no pair spans two rows; place -1 is the end of the last one
            found.append(joint)
        return found


def storable(pairs: NDArray[np.int32]) -> NDArray[np.int32]:
    """The pairs (P, 2), the most important first, without those whose slot of the hash table is
    taken by an earlier one."""
    while True:
        first, second = torch.from_numpy(pairs).unbind(1)
        slot = _slot(first, second, _slots(len(pairs))).numpy()
        kept = np.sort(np.unique(slot, return_index=True)[1])
        if len(kept) == len(pairs):
            return pairs
        pairs = pairs[kept]


def _slots(pairs: int) -> int:
    """Slots of the hash table for this number of pairs, a power of two."""
    return 1 << (pairs * _SPREAD - 1).bit_length() if pairs else 0


def _slot(first: torch.Tensor, second: torch.Tensor, slots: int) -> torch.Tensor:
    """The slot of a pair: the highest bits of its hash."""
    bits = max(slots, 2).bit_length() - 1
    return (first * _FIRST).add_(second, alpha=_SECOND) >> (32 - bits) & (slots - 1)


def _check(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return first * _CHECK + second
