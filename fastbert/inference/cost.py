"""Cost of a row in floating-point operations, by closed form.

Counted: 2 per multiply-add of every linear map and of both attention products, on real tokens, of
the layers and heads that a row passes. Not counted: normalisation, activations, softmax, biases,
embedding look-ups. `torch.utils.flop_counter` agrees exactly under eager attention, except that
Hugging Face's DeBERTa computes more than is needed: see `encoders/deberta.py`.

Letters: n rows, E exits.
"""

import copy

import numpy as np
from numpy.typing import NDArray

from fastbert.model import FastBertForSequenceClassification

Counts = NDArray[np.int64]


def by_window(lengths: Counts) -> Counts:
    """Lengths of rows, as for `CostModel`, as lengths of their windows: (n, W)."""
    return lengths[:, None] if lengths.ndim == 1 else lengths


class CostModel:
    """FLOPs of rows, as a function of their lengths and exits."""

    def __init__(self, model: FastBertForSequenceClassification) -> None:
        """For a model with all exits computed, from the costs of its encoder and heads."""
        self.exits, self.encoder, self.heads = model.exits, model.encoder, model.heads
        self.used = np.ones(len(self.heads), bool)
        self.weight = 1.0

    def using(self, exits: NDArray[np.integer]) -> "CostModel":
        """The same with only these exits computed, as from `Rule.used`."""
        found = copy.copy(self)
        found.used = np.isin(np.arange(len(self.heads)), exits)
        return found

    def weighing(self, heads: float) -> "CostModel":
        """The same with heads counted `times` times, for their real time."""
        found = copy.copy(self)
        found.weight = heads
        return found

    def row_flops(self, lengths: Counts, exits: NDArray[np.integer]) -> Counts:
        """Rows of `lengths` (n,) that left at exits (n,), by index: int64 (n,). Rows of several
        windows have lengths (n, W), 0 for no window, and cost the sum of these."""
        each = _up_to(lengths)
        layers = self._layers(each)
        heads = np.cumsum([self._head(k, each) * on for k, on in enumerate(self.used)], axis=0)
        by_exit = heads + [layers[k.depth] * (k.head != "bag") for k in self.exits]
        by_exit[:, 0] = 0
        if lengths.ndim == 2:
            exits = exits[:, None]
        return _of_rows(by_exit[exits, lengths])

    def full_flops(self, lengths: Counts) -> Counts:
        """The full model with only its last head, the comparison for early exit: int64 (n,)."""
        each = _up_to(lengths)
        whole = self._layers(each)[-1] + self._head(-1, each)
        whole[0] = 0
        return _of_rows(whole[lengths])

    def speedup(self, lengths: Counts, exits: NDArray[np.integer]) -> float:
        """Times fewer FLOPs than the full model, over all rows together."""
        full, early = self.full_flops(lengths), self.row_flops(lengths, exits)
        return float(full.sum() / early.sum())

    def _head(self, exit: int, lengths: Counts) -> Counts:
        """FLOPs of an exit, for rows of these lengths (n,)."""
        return (self.weight * self.heads[exit].flops(lengths)).astype(np.int64)

    def _layers(self, lengths: Counts) -> Counts:
        """FLOPs up to each depth, for the same rows: (L + 1, n)."""
        parts = [self.encoder.flops(k, lengths) for k in range(self.encoder.depth + 1)]
        flops: Counts = np.cumsum(parts, axis=0)
        return flops


def _up_to(lengths: Counts) -> Counts:
    """All lengths up to the longest: few, for any number of rows."""
    return np.arange(int(lengths.max(initial=0)) + 1)


def _of_rows(flops: Counts) -> Counts:
    """For rows, or summed over the windows of each."""
    return flops if flops.ndim == 1 else flops.sum(1)
