"""What a row costs, in floating point operations, by closed form.

Counted: 2 per multiply-add of every linear map and of both attention products, on real tokens, of
the layers and classifiers a row passes. Not counted: normalisation, activations, softmax, biases,
embedding look-ups. `torch.utils.flop_counter` agrees exactly under eager attention.

Letters: T tokens, H hidden size, I intermediate size, D branch width, N classes, L layers.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from fastbert.configuration import FastBertConfig
from fastbert.encoders.pretrained import family

Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class CostModel:
    """FLOPs of the parts of one model, as functions of the length of a row."""

    layers: int
    hidden: int
    intermediate: int
    branch: int
    branch_heads: int
    classes: int
    projection: int  # H x E of ELECTRA's embedding projection, else 0
    pooled_teacher: bool

    @classmethod
    def of(cls, config: FastBertConfig) -> "CostModel":
        """The cost model of a checkpoint's configuration."""
        backbone = config.backbone_config()
        embedding = getattr(backbone, "embedding_size", None) or backbone.hidden_size
        return cls(
            layers=backbone.num_hidden_layers,
            hidden=backbone.hidden_size,
            intermediate=attrgetter(family(backbone).intermediate_size)(backbone),
            branch=config.branch_size,
            branch_heads=config.branch_heads,
            classes=config.num_labels or 0,
            projection=0 if embedding == backbone.hidden_size else embedding * backbone.hidden_size,
            pooled_teacher=config.teacher_activation is not None,
        )

    def layer_flops(self, lengths: Integers) -> Integers:
        """One transformer layer: 8TH² (Q, K, V, output) + 4T²H (both products) + 4THI (block)."""
        t, h = lengths, self.hidden
        return 8 * t * h * h + 4 * t * t * h + 4 * t * h * self.intermediate

    def branch_flops(self, lengths: Integers) -> Integers:
        """One branch: all tokens narrowed and read by each head, everything else once per row."""
        t, d = lengths, self.branch
        every_token = 2 * t * self.hidden * d + 4 * t * d * self.branch_heads
        return every_token + 10 * d * d + 2 * d * self.classes

    def teacher_flops(self, lengths: Integers) -> Integers:
        """The last classifier: a branch, or an adopted head on the first token."""
        if not self.pooled_teacher:
            return self.branch_flops(lengths)
        return np.full_like(lengths, 2 * self.hidden * (self.hidden + self.classes))

    def row_flops(self, lengths: Integers, exit_layers: Integers) -> Integers:
        """Rows of `lengths` (n,) that left after layer `exit_layers` (n,), 1 to L: int64 (n,)."""
        lengths, exits = lengths.astype(np.int64), exit_layers.astype(np.int64)
        last = exits == self.layers
        students = np.where(last, exits - 1, exits)
        return (
            2 * lengths * self.projection
            + exits * self.layer_flops(lengths)
            + students * self.branch_flops(lengths)
            + np.where(last, self.teacher_flops(lengths), 0)
        )

    def full_flops(self, lengths: Integers) -> Integers:
        """The full model without students, what early exit is compared with: int64 (n,)."""
        lengths = lengths.astype(np.int64)
        return (
            2 * lengths * self.projection
            + self.layers * self.layer_flops(lengths)
            + self.teacher_flops(lengths)
        )

    def speedup(self, lengths: Integers, exit_layers: Integers) -> float:
        """Times fewer FLOPs than the full model, over all rows together."""
        full, early = self.full_flops(lengths), self.row_flops(lengths, exit_layers)
        return float(full.sum() / early.sum())
