"""Input ranges of linear maps, measured on texts, for 8-bit products."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastbert.errors import InputError
from fastbert.inference.engine import Engine
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed.batching import Batch
from fastbert.packed.input_range import Range
from fastbert.packed.measuring import MeasuringPlacement, Seen
from fastbert.packed.placement import Placement

#: Rows to measure on, and the largest share of a sample.
_ROWS, _SHARE = 300, 0.1


class _Measuring(Engine):
    """An engine in float32 on the CPU that records ranges."""

    seen: dict[str, Seen]

    def _placement(self, model: FastBertForSequenceClassification, *_: Any) -> Placement:
        self.seen = {}
        return MeasuringPlacement(self.device, torch.float32, names=model.names(), seen=self.seen)

    def _cut(self, lengths: NDArray[np.int64], begin: int = 0) -> list[Batch]:
        batches = super()._cut(lengths, begin)
        for batch in batches:
            batch.span = batch.own  # ignore tokens of no row
        return batches


def measuring(rows: int, seed: int) -> NDArray[np.bool_]:
    """Mask of the rows to measure ranges on, (n,). They are not used for proofs, which depend on
    the ranges."""
    few = min(_ROWS, math.ceil(rows * _SHARE))
    return np.random.default_rng([seed, rows]).permutation(rows) < few


def measure_ranges(model: FastBertForSequenceClassification, tokens: Tokens) -> dict[str, Range]:
    """Ranges of the inputs of all linear maps of layers and heads, at all exits, over these rows.

    Raises InputError if they are not finite.
    """
    engine = _Measuring(model)
    engine.exit_logits(tokens)
    ranges = {name: seen.range() for name, seen in engine.seen.items()}
    for name, span in ranges.items():
        if not math.isfinite(span.least + span.most):
            raise InputError(
                f"the inputs of {name} are not finite numbers; the model is unusable: train, "
                "distil or convert it again"
            )
    return ranges
