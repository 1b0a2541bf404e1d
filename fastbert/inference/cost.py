"""What a row costs, in floating-point operations, by closed form.

Counted: 2 per multiply-add of every linear map and of both attention products, on real tokens, of
the layers and heads that a row passes. Not counted: normalisation, activations, softmax, biases,
embedding look-ups. `torch.utils.flop_counter` agrees exactly under eager attention, except that
Hugging Face's DeBERTa computes more than is needed: `encoders/deberta.py` says what.

Letters: n rows, E exits.
"""

import copy

import numpy as np
from numpy.typing import NDArray

from fastbert.model import FastBertForSequenceClassification

Counts = NDArray[np.int64]


def by_window(lengths: Counts) -> Counts:
    """Lengths of rows, as `CostModel` takes them, as those of their windows: (n, W)."""
    return lengths[:, None] if lengths.ndim == 1 else lengths


class CostModel:
    """FLOPs of rows, as functions of their lengths and of the exits where they leave."""

    def __init__(self, model: FastBertForSequenceClassification) -> None:
        """Of a model, all of whose exits are computed: its encoder and its heads know what they
        cost."""
        self.exits, self.encoder, self.heads = model.exits, model.encoder, model.heads
        self.used = np.ones(len(self.heads), bool)
        self.weight = 1.0

    def using(self, exits: NDArray[np.integer]) -> "CostModel":
        """The same where only some exits are computed, as `Rule.used` names them."""
        found = copy.copy(self)
        found.used = np.isin(np.arange(len(self.heads)), exits)
        return found

    def weighing(self, heads: float) -> "CostModel":
        """The same where heads count so many times, as they may on a clock."""
        found = copy.copy(self)
        found.weight = heads
        return found

    def row_flops(self, lengths: Counts, exits: NDArray[np.integer]) -> Counts:
        """Rows of `lengths` (n,) that left at exits (n,), by index: int64 (n,). Rows of several
        windows have lengths (n, W), 0 where there is no window, and cost what these do."""
        each = _up_to(lengths)
        layers = self._layers(each)
        heads = np.cumsum([self._head(k, each) * on for k, on in enumerate(self.used)], axis=0)
        by_exit = heads + [layers[k.depth] * (k.head != "bag") for k in self.exits]
        by_exit[:, 0] = 0
        if lengths.ndim == 2:
            exits = exits[:, None]
        return _of_rows(by_exit[exits, lengths])

    def full_flops(self, lengths: Counts) -> Counts:
        """The full model with its last head only, what early exit is compared with: int64 (n,)."""
        each = _up_to(lengths)
        whole = self._layers(each)[-1] + self._head(-1, each)
        whole[0] = 0
        return _of_rows(whole[lengths])

    def speedup(self, lengths: Counts, exits: NDArray[np.integer]) -> float:
        """Times fewer FLOPs than the full model, over all rows together."""
        full, early = self.full_flops(lengths), self.row_flops(lengths, exits)
        return float(full.sum() / early.sum())

    def _head(self, exit: int, lengths: Counts) -> Counts:
        """That of an exit, for rows of these lengths (n,)."""
        return (self.weight * self.heads[exit].flops(lengths)).astype(np.int64)

    def _layers(self, lengths: Counts) -> Counts:
        """Up to each depth, the same: (L + 1, n)."""
        parts = [self.encoder.flops(k, lengths) for k in range(self.encoder.depth + 1)]
        flops: Counts = np.cumsum(parts, axis=0)
        return flops


def _up_to(lengths: Counts) -> Counts:
    """All lengths that occur, and those between: they are few, however many the rows."""
    return np.arange(int(lengths.max(initial=0)) + 1)


def _of_rows(flops: Counts) -> Counts:
    """Of rows, or of the windows of each."""
    return flops if flops.ndim == 1 else flops.sum(1)
