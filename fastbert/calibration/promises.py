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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from scipy.stats import binom, hypergeom

from fastbert.calibration.bounds import upper_bound
from fastbert.calibration.evaluation import ExitOutputs
from fastbert.exits.operating_point import Evidence, OperatingPoint, Promise
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
class Sample:
    """Rows that choose thresholds, or prove them."""

    outputs: ExitOutputs
    fails: Array  # bool (E, n), where a row's answer would do harm
    cost: CostModel
    corpus: str = ""  # that the rows come from
    precision: str = ""  # that the outputs were computed in

    def __len__(self) -> int:
        return len(self.outputs.lengths)

    def take(self, rows: Array) -> "Sample":
        """Some of the rows, by number or mask."""
        return replace(self, outputs=self.outputs.take(rows), fails=self.fails[:, rows])


@dataclass(frozen=True)
class Path:
    """Thresholds from full depth to the fastest."""

    criterion: str
    thresholds: Array  # float64 (J, E - 1), no column ever falls; the first row is all zeros

    def __len__(self) -> int:
        return len(self.thresholds)

    def rule(self, step: int) -> Threshold:
        """What the engine does at a step."""
        return Threshold.of(self.thresholds[step], self.criterion)


def uniform_path(outputs: ExitOutputs, criterion: str) -> Path:
    """One threshold for all exits, the paper's speed: quantiles of what was seen."""
    exits = len(outputs.logits)
    seen = np.unique(outputs.uncertainties(criterion)[:-1])
    seen = seen[np.isfinite(seen)]  # with another one no row ever leaves
    highest = float(seen[-1]) if len(seen) else 1.0
    # Between two values that were seen, so that the last bit of a float decides nothing.
    middles = np.append((seen[1:] + seen[:-1]) / 2.0, highest + 1e-3)
    steps = np.unique(middles[np.linspace(0, len(middles) - 1, _STEPS).astype(int)])
    return Path(criterion, np.repeat(np.append(0.0, steps)[:, None], exits - 1, axis=1))


def per_layer_path(sample: Sample, criterion: str) -> Path:
    """Thresholds per exit that cost the fewest FLOPs for the failures they make on these rows.

    For weights of a failure from high to low, exit after exit gets the threshold that is best
    as long as the others stay what they are (coordinate descent), and thresholds only rise.
    """
    finite = np.isfinite(sample.outputs.uncertainties(criterion))
    sample = sample.take(np.flatnonzero(finite.all(0)))
    if not len(sample):
        return uniform_path(sample.outputs, criterion)
    answers, lengths = sample.outputs.answers, sample.outputs.lengths
    uncertainties = sample.outputs.uncertainties(criterion)
    exits, n = sample.fails.shape
    costs = np.stack([sample.cost.row_flops(lengths, np.full(n, k)) for k in range(exits)])
    costs = costs / sample.cost.full_flops(lengths).mean()  # (E, n)
    thresholds = np.zeros(exits - 1)
    corners = [thresholds]
    for weight in _WEIGHTS:
        loss = costs + weight * sample.fails  # (E, n) of a row that leaves at an exit
        for _ in range(2):
            for exit in reversed(range(exits - 1)):
                best = _best_threshold(answers, uncertainties, loss, thresholds, exit)
                thresholds = thresholds.copy()
                thresholds[exit] = max(best, corners[-1][exit])
        corners.append(thresholds)
    corners.append(np.maximum(thresholds, float(uncertainties[:-1].max()) + 1e-3))
    parts = [np.linspace(a, b, _BETWEEN + 1)[1:] for a, b in pairwise(corners)]
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


def breaking_steps(sample: Sample, path: Path) -> Array:
    """Where along a path each row fails for the first time: int (n,), J for never.

    With one threshold for all exits, failures between two steps count, too: its steps lie where
    the sample's uncertainties do, so the proof is about all thresholds there are. Rows that fail
    at full depth, where the answer is not a number, fail from the first step on.
    """
    fails, uncertainties = sample.fails, sample.outputs.uncertainties(path.criterion)
    uncertainties = np.where(np.isnan(uncertainties), np.inf, uncertainties)  # never leave there
    common = path.thresholds[:, 0].astype(np.float32)
    if (path.thresholds == path.thresholds[:, :1]).all():
        # A row leaves at exit k for some threshold if and only if k is surer than all before.
        before = np.minimum.accumulate(uncertainties[:-1], axis=0)
        surer = np.vstack([np.ones((1, len(sample)), bool), uncertainties[1:-1] < before[:-1]])
        breaks = np.where(surer & fails[:-1], uncertainties[:-1], np.inf).min(0)
        breaks[fails[-1]] = 0.0
        return np.asarray(np.searchsorted(common, breaks, side="right"))
    rows = np.arange(len(sample))
    steps = np.full(len(rows), len(path))
    for step in reversed(range(len(path))):
        steps[fails[replay(path.rule(step), sample.outputs.answers, uncertainties), rows]] = step
    return np.where(fails[-1], 1, steps)


def furthest_step(steps: Array, allowed: int, last: int) -> int:
    """The last step up to `last` at which at most `allowed` rows are broken."""
    if allowed >= len(steps):
        return last
    return min(int(np.partition(steps, allowed)[allowed]) - 1, last)


def furthest_exits(sample: Sample, path: Path, allowed: int) -> Array:
    """Exits (n,) at the last step of a path at which at most `allowed` rows are broken."""
    step = furthest_step(breaking_steps(sample, path), allowed, len(path) - 1)
    return sample.outputs.exits(path.rule(step))


def keep_promise(
    sample: Sample,
    promise: Promise,
    criteria: Sequence[str],
    shapes: Sequence[Shape],
    seed: int = 0,
) -> OperatingPoint | None:
    """The fastest thresholds that keep the promise, of those that the criteria and shapes offer.

    With one criterion and one threshold for all exits, all rows prove. Otherwise a share of them,
    drawn with `seed`, chooses and learns, and the others prove. None if too few rows prove: see
    `rows_needed` and `PROVING`.
    """
    if tuple(shapes) == ("uniform",) and len(criteria) == 1:
        path = uniform_path(sample.outputs, criteria[0])
    else:
        learns = np.random.default_rng(seed).random(len(sample)) >= PROVING
        path = _best_path(sample.take(learns), promise, criteria, shapes)
        sample = sample.take(~learns)
    allowed = allowed_failures(len(sample), promise)
    if allowed < 0:
        return None
    steps = breaking_steps(sample, path)
    step = furthest_step(steps, allowed, len(path) - 1)
    return replace(_point(sample, path, step, steps, promise.confidence), promise=promise)


def reach_speedup(
    sample: Sample, speedup: float, confidence: float, criterion: str
) -> OperatingPoint | None:
    """The slowest common threshold whose FLOPs speed-up on these rows is at least `speedup`."""
    outputs = sample.outputs
    path = uniform_path(outputs, criterion)

    def fast_enough(step: int) -> bool:
        return sample.cost.speedup(outputs.lengths, outputs.exits(path.rule(step))) >= speedup

    step = bisect_right(range(len(path)), False, key=fast_enough)
    if step == len(path):
        return None
    return _point(sample, path, step, breaking_steps(sample, path), confidence)


def _best_path(
    sample: Sample, promise: Promise, criteria: Sequence[str], shapes: Sequence[Shape]
) -> Path:
    """The path that saves most at the promised share; half of the rows learns, the others judge."""

    def learn(rows: Sample, criterion: str, shape: Shape) -> Path:
        if shape == "uniform":
            return uniform_path(rows.outputs, criterion)
        return per_layer_path(rows, criterion)

    def flops(criterion: str, shape: Shape) -> float:
        total = 0.0
        for learner, judge in (halves, halves[::-1]):
            allowed = math.floor(promise.share * len(judge))
            exits = furthest_exits(judge, learn(learner, criterion, shape), allowed)
            total += sample.cost.row_flops(judge.outputs.lengths, exits).sum()
        return total

    halves = [sample.take(np.arange(k, len(sample), 2)) for k in (0, 1)]
    offers = [(criterion, shape) for criterion in criteria for shape in shapes]
    best = offers[0] if len(offers) == 1 else min(offers, key=lambda offer: flops(*offer))
    return learn(sample, *best)


def _point(
    sample: Sample, path: Path, step: int, steps: Array, confidence: float
) -> OperatingPoint:
    """A step of a path, still without a name, and what the rows say of it."""
    exits = sample.outputs.exits(path.rule(step))
    broken = int((steps <= step).sum())
    depths = [each.depth for each in sample.cost.exits]
    evidence = Evidence(
        rows=len(exits),
        broken=broken,
        bound=upper_bound(broken, len(exits), confidence),
        exits=np.bincount(exits, minlength=len(depths)).tolist(),
        flops_speedup=sample.cost.speedup(sample.outputs.lengths, exits),
        corpus=sample.corpus,
        precision=sample.precision,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        exit_depths=depths,
    )
    thresholds = path.thresholds[step].tolist()
    return OperatingPoint("", thresholds, path.criterion, evidence=evidence, exit_depths=depths)
