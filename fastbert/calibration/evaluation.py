"""What every speed would do, from one full pass.

Each row runs through all layers once; after that the exit layers, labels and FLOPs of any
threshold are arithmetic. Only the clock needs the engine again.

Letters: n rows, L layers, N classes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fastbert.exits.criteria import CRITERIA, DEFAULT_CRITERION, PATIENCE, impatience
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.engine import Engine
from fastbert.inference.flops import CostModel
from fastbert.inference.tokens import Tokens

Array = np.ndarray[Any, Any]

#: Rows between two signs of life: enough to fill a GPU.
_ROWS = 4096


@dataclass(frozen=True)
class LayerOutputs:
    """What every layer says of every row."""

    log_p: Array  # float32 (L, n, N), log probabilities
    lengths: Array  # int64 (n,), tokens

    @cached_property
    def labels(self) -> Array:
        """Each layer's answers: int32 (L, n)."""
        labels: Array = self.log_p.argmax(-1).astype(np.int32)
        return labels

    def uncertainties(self, criterion: str = DEFAULT_CRITERION) -> Array:
        """By a criterion of `CRITERION_NAMES`: float32 (L, n)."""
        if criterion == PATIENCE:
            return impatience(_streaks(self.labels), len(self.labels))
        measured: Array = CRITERIA[criterion](torch.from_numpy(self.log_p)).numpy()
        return measured

    def take(self, rows: Array) -> "LayerOutputs":
        """Those of some rows, by number or mask."""
        return LayerOutputs(self.log_p[:, rows], self.lengths[rows])


@dataclass(frozen=True)
class Outcome:
    """How one set of thresholds fares on n rows."""

    accuracy: float | None  # share of rows with the right label; None without labels
    agreement: float  # share of rows with full depth's label
    mean_layers: float
    exits: list[int]  # rows that leave at layer 1 .. L
    flops: int  # all rows, branches included
    flops_speedup: float  # full depth's FLOPs by these


def layer_outputs(
    engine: Engine, tokens: Tokens, advance: Callable[[int], object] = lambda rows: None
) -> LayerOutputs:
    """Run every row through every layer; `advance` hears of each so many that are done."""
    logits = np.zeros((len(engine.layers), len(tokens), engine.num_labels), np.float32)
    for start in range(0, len(tokens), _ROWS):
        block = np.arange(start, min(start + _ROWS, len(tokens)))
        logits[:, block] = engine.layer_logits(tokens.take(block))
        advance(len(block))
    return LayerOutputs(torch.from_numpy(logits).log_softmax(-1).numpy(), tokens.lengths)


def _streaks(labels: Array) -> Array:
    """How many layers have given a layer's answer in a row, itself included: (L, n)."""
    streaks = np.ones_like(labels)
    for layer in range(1, len(labels)):
        streaks[layer] += np.where(labels[layer] == labels[layer - 1], streaks[layer - 1], 0)
    return streaks


def exit_layers(uncertainties: Array, thresholds: Array) -> Array:
    """The first layer, from 1, whose uncertainty is below its threshold: (L, n) to int8 (n,).

    `thresholds` has L - 1 numbers; the last layer takes the rest.
    """
    sure = uncertainties[:-1] < np.asarray(thresholds, np.float32)[:, None]  # (L - 1, n)
    sure = np.vstack([sure, np.ones((1, sure.shape[1]), bool)])
    exits: Array = (sure.argmax(0) + 1).astype(np.int8)
    return exits


def outcome(
    outputs: LayerOutputs,
    cost: CostModel,
    thresholds: Array | float,
    truth: Array | None = None,
    criterion: str = DEFAULT_CRITERION,
) -> Outcome:
    """What thresholds (L - 1,), or the paper's single one, do; `truth` are class indices (n,)."""
    layers, rows = outputs.labels.shape
    thresholds = np.broadcast_to(thresholds, layers - 1)
    exits = exit_layers(outputs.uncertainties(criterion), thresholds)
    labels = outputs.labels[exits - 1, np.arange(rows)]
    return Outcome(
        accuracy=None if truth is None else float((labels == truth).mean()),
        agreement=float((labels == outputs.labels[-1]).mean()),
        mean_layers=float(exits.mean()),
        exits=np.bincount(exits, minlength=layers + 1)[1:].tolist(),
        flops=int(cost.row_flops(outputs.lengths, exits).sum()),
        flops_speedup=cost.speedup(outputs.lengths, exits),
    )


def realised_speedups(
    engine: Engine, tokens: Tokens, points: list[OperatingPoint], repeats: int = 3
) -> list[float]:
    """Seconds at full depth by seconds at each point: medians of interleaved runs.

    Full depth is the engine itself at speed 0, without the branches' share of the work: the same
    batches, so that only early exit makes the difference.
    """
    seconds: list[list[float]] = [[] for _ in (None, *points)]
    for repeat in range(repeats + 1):  # the first round warms up
        for point, taken in zip((None, *points), seconds, strict=True):
            started = time.perf_counter()
            if point is None:
                engine.full_depth(tokens)
            else:
                engine.classify(tokens, np.array(point.thresholds), criterion=point.criterion)
            if repeat:
                taken.append(time.perf_counter() - started)
    full, *others = (np.median(taken) for taken in seconds)
    return [float(full / other) for other in others]
