"""Thresholds that keep a promise, proven from a sample.

A *path* is a sequence of thresholds, each at least as high as those before it, from full depth on
to the fastest. Along it a row at first gets full depth's label and somewhere, perhaps, another one:
the step where that happens first is where the row *breaks*, and from there on it counts as broken,
also where it is right again by chance. So the broken rows of a sample and of the rows it stands
for grow in one common order, and if they are exchangeable, each next one to break is as likely to
be any of those left. That is all the proof needs (`allowed_failures`): no assumption about models
or thresholds, no grid to correct for, and any step before the sample's (c + 1)-th break may be
taken, whatever it was chosen for. Wilks 1941 bounded the share of a population beyond an order
statistic like this; in the terms of Angelopoulos et al. 2021 (Learn then Test) it is fixed-sequence
testing on a grid of all thresholds there are.

Where the path itself is learned, as that of thresholds per exit is, it is learned on other rows.

Letters: n rows, E exits, J steps.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import binom, hypergeom

from fastbert.calibration.bounds import upper_bound
from fastbert.calibration.evaluation import ExitOutputs
from fastbert.exits.operating_point import Promise
from fastbert.exits.rules import Threshold, replay
from fastbert.inference.cost import CostModel

Array = np.ndarray[Any, Any]

#: One threshold for all exits, or each its own.
Shape = Literal["uniform", "per-layer"]

#: Share of the rows that prove, where others have to choose first.
PROVING = 0.6

#: Steps of a path with one threshold for all exits.
_STEPS = 400
#: Weights of a broken row against one row's full cost, for which thresholds per exit are sought,
#: and steps between the thresholds of two of them.
_WEIGHTS, _BETWEEN = np.geomspace(2000, 0.2, 28), 8


def allowed_failures(sample: int, promise: Promise) -> int:
    """The largest number c of broken rows in a sample that still proves a promise; -1 for none.

    The promise is broken in spite of c or fewer in the sample only if, of the first
    c + share * rows + 1 rows to break of both together, c or fewer fall into the sample: a
    hypergeometric probability, and the binomial one of Clopper and Pearson 1934 where the promise
    is about all rows.
    """

    def chance(failures: int) -> float:
        if promise.rows is None:
            return float(binom.cdf(failures, sample, promise.share))
        broken = failures + math.floor(promise.share * promise.rows) + 1
        return float(hypergeom.cdf(failures, sample + promise.rows, broken, sample))

    return bisect_right(range(sample), 1 - promise.confidence, key=chance) - 1


def rows_needed(promise: Promise) -> int:
    """The size of the smallest sample that can prove a promise: one of which no row breaks."""

    def provable(sample: int) -> bool:
        return allowed_failures(sample, promise) >= 0

    enough = 1
    while not provable(enough):
        enough *= 2
    return bisect_right(range(enough), False, key=provable)


@dataclass(frozen=True)
class Path:
    """Thresholds from full depth to the fastest."""

    criterion: str
    thresholds: Array  # float64 (J, E - 1), no column ever falls; the first row is all zeros


def uniform_path(outputs: ExitOutputs, criterion: str) -> Path:
    """One threshold for all exits, the paper's speed: quantiles of what was seen."""
    exits = len(outputs.logits)
    seen = np.unique(outputs.uncertainties(criterion)[:-1])
    # Between two values that were seen, so that the last bit of a float decides nothing.
    middles = np.append((seen[1:] + seen[:-1]) / 2.0, float(seen[-1]) + 1e-3)
    steps = np.unique(middles[np.linspace(0, len(middles) - 1, _STEPS).astype(int)])
    return Path(criterion, np.repeat(np.append(0.0, steps)[:, None], exits - 1, axis=1))


def per_layer_path(outputs: ExitOutputs, fails: Array, criterion: str, cost: CostModel) -> Path:
    """Thresholds per exit that cost the fewest FLOPs for the failures they make on these rows.

    For weights of a failure from high to low, exit after exit gets the threshold that is best
    as long as the others stay what they are (coordinate descent), and thresholds only rise.
    `fails` (E, n) says where a row would fail.
    """
    uncertainties = outputs.uncertainties(criterion)
    exits, n = fails.shape
    costs = np.stack([cost.row_flops(outputs.lengths, np.full(n, k)) for k in range(exits)])
    costs = costs / cost.full_flops(outputs.lengths).mean()  # (E, n)
    thresholds = np.zeros(exits - 1)
    corners = [thresholds]
    for weight in _WEIGHTS:
        loss = costs + weight * fails  # (E, n) of a row that leaves at an exit
        for _ in range(2):
            for exit in reversed(range(exits - 1)):
                best = _best_threshold(outputs.answers, uncertainties, loss, thresholds, exit)
                thresholds = thresholds.copy()
                thresholds[exit] = max(best, corners[-1][exit])
        corners.append(thresholds)
    corners.append(np.maximum(thresholds, float(uncertainties[:-1].max()) + 1e-3))
    parts = [
        np.linspace(a, b, _BETWEEN + 1)[1:] for a, b in zip(corners, corners[1:], strict=False)
    ]
    return Path(criterion, np.unique(np.vstack([np.zeros((1, exits - 1)), *parts]), axis=0))


def _best_threshold(
    answers: Array, uncertainties: Array, loss: Array, thresholds: Array, exit: int
) -> float:
    """Of one exit, from 0, given those of the others: the least loss of all rows that reach it."""
    reach = np.flatnonzero((uncertainties[:exit] >= thresholds[:exit, None]).all(0))
    if not len(reach):
        return 0.0
    rest = slice(exit + 1, None)
    rule = Threshold.of(thresholds[rest])
    later = replay(rule, answers[rest, reach], uncertainties[rest, reach]) + exit + 1
    gain = loss[later, reach] - loss[exit, reach]  # of leaving here
    order = np.argsort(uncertainties[exit, reach], kind="stable")
    values = uncertainties[exit, reach][order].astype(np.float64)
    total = np.concatenate([[0.0], np.cumsum(gain[order])])
    possible = np.concatenate([[True], values[1:] > values[:-1], [True]])  # cuts between rows
    cut = int(np.argmax(np.where(possible, total, -np.inf)))
    if cut == 0:
        return 0.0
    return float((values[cut - 1] + values[cut]) / 2 if cut < len(values) else values[-1] + 1e-3)


def breaking_steps(outputs: ExitOutputs, fails: Array, path: Path) -> Array:
    """Where along a path each row fails for the first time: int (n,), J for never.

    With one threshold for all exits, failures between two steps count, too: its steps lie where
    the sample's uncertainties do, so the proof is about all thresholds there are.
    """
    uncertainties = outputs.uncertainties(path.criterion)
    common = path.thresholds[:, 0].astype(np.float32)
    if (path.thresholds == path.thresholds[:, :1]).all():
        # A row leaves at exit k for some threshold if and only if k is surer than all before.
        before = np.minimum.accumulate(uncertainties[:-1], axis=0)
        surer = np.vstack([np.ones((1, fails.shape[1]), bool), uncertainties[1:-1] < before[:-1]])
        breaks = np.where(surer & fails[:-1], uncertainties[:-1], np.inf).min(0)
        first: Array = np.searchsorted(common, breaks, side="right")
        return first
    rows = np.arange(fails.shape[1])
    steps = np.full(len(rows), len(path.thresholds))
    for step in reversed(range(len(path.thresholds))):
        rule = Threshold.of(path.thresholds[step])
        steps[fails[replay(rule, outputs.answers, uncertainties), rows]] = step
    return steps


def furthest_step(steps: Array, allowed: int, last: int) -> int:
    """The last step up to `last` at which at most `allowed` rows are broken."""
    if allowed >= len(steps):
        return last
    return min(int(np.partition(steps, allowed)[allowed]) - 1, last)


def furthest_exits(outputs: ExitOutputs, fails: Array, path: Path, allowed: int) -> Array:
    """Exits (n,) at the last step of a path at which at most `allowed` rows are broken."""
    last = len(path.thresholds) - 1
    step = furthest_step(breaking_steps(outputs, fails, path), allowed, last)
    return outputs.exits(Threshold.of(path.thresholds[step], path.criterion))


@dataclass(frozen=True)
class Choice:
    """Thresholds, and what the rows that prove them say."""

    criterion: str
    thresholds: list[float]  # E - 1
    rows: int  # the sample that proves it
    broken: int  # of these
    bound: float  # upper, on the share of broken rows
    exits: list[int]  # rows of the sample that leave at each exit
    flops_speedup: float  # full depth's FLOPs by these


def keep_promise(
    outputs: ExitOutputs,
    fails: Array,
    cost: CostModel,
    promise: Promise,
    criteria: Sequence[str],
    shapes: Sequence[Shape],
    seed: int = 0,
) -> Choice | None:
    """The fastest thresholds that keep the promise, of those that the criteria and shapes offer.

    With one criterion and one threshold for all exits, all rows prove. Otherwise a share of them,
    drawn with `seed`, chooses and learns, and the others prove. None if too few rows prove: see
    `rows_needed` and `PROVING`.
    """
    proving, path = outputs, None
    if tuple(shapes) != ("uniform",) or len(criteria) > 1:
        learns = np.random.default_rng(seed).random(fails.shape[1]) >= PROVING
        path = _best_path(outputs.take(learns), fails[:, learns], cost, promise, criteria, shapes)
        proving, fails = outputs.take(~learns), fails[:, ~learns]
    if path is None:
        path = uniform_path(outputs, criteria[0])
    allowed = allowed_failures(fails.shape[1], promise)
    if allowed < 0:
        return None
    steps = breaking_steps(proving, fails, path)
    step = furthest_step(steps, allowed, len(path.thresholds) - 1)
    return _choice(proving, path, step, steps, cost, promise.confidence)


def reach_speedup(
    outputs: ExitOutputs,
    fails: Array,
    cost: CostModel,
    speedup: float,
    confidence: float,
    criterion: str,
) -> Choice | None:
    """The slowest common threshold whose FLOPs speed-up on these rows is at least `speedup`."""
    path = uniform_path(outputs, criterion)

    def fast_enough(step: int) -> bool:
        exits = outputs.exits(Threshold.of(path.thresholds[step], criterion))
        return cost.speedup(outputs.lengths, exits) >= speedup

    step = bisect_right(range(len(path.thresholds)), False, key=fast_enough)
    if step == len(path.thresholds):
        return None
    return _choice(outputs, path, step, breaking_steps(outputs, fails, path), cost, confidence)


def _best_path(
    outputs: ExitOutputs,
    fails: Array,
    cost: CostModel,
    promise: Promise,
    criteria: Sequence[str],
    shapes: Sequence[Shape],
) -> Path:
    """The path that saves most at the promised share; half of the rows learns, the others judge."""

    def learn(rows: Array, criterion: str, shape: Shape) -> Path:
        if shape == "uniform":
            return uniform_path(outputs.take(rows), criterion)
        return per_layer_path(outputs.take(rows), fails[:, rows], criterion, cost)

    def flops(criterion: str, shape: Shape) -> float:
        total = 0.0
        for rows, others in ((halves[0], halves[1]), (halves[1], halves[0])):
            path, judge = learn(rows, criterion, shape), outputs.take(others)
            allowed = math.floor(promise.share * len(others))
            exits = furthest_exits(judge, fails[:, others], path, allowed)
            total += cost.row_flops(judge.lengths, exits).sum()
        return total

    everything = np.arange(fails.shape[1])
    halves = everything[::2], everything[1::2]
    offers = [(criterion, shape) for criterion in criteria for shape in shapes]
    best = offers[0] if len(offers) == 1 else min(offers, key=lambda offer: flops(*offer))
    return learn(everything, *best)


def _choice(
    outputs: ExitOutputs, path: Path, step: int, steps: Array, cost: CostModel, confidence: float
) -> Choice:
    exits = outputs.exits(Threshold.of(path.thresholds[step], path.criterion))
    broken = int((steps <= step).sum())
    return Choice(
        criterion=path.criterion,
        thresholds=path.thresholds[step].tolist(),
        rows=len(exits),
        broken=broken,
        bound=upper_bound(broken, len(exits), confidence),
        exits=np.bincount(exits, minlength=len(outputs.logits)).tolist(),
        flops_speedup=cost.speedup(outputs.lengths, exits),
    )
