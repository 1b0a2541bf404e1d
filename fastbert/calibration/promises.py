"""Thresholds that keep a promise, proven from a sample.

A *path* is a sequence of thresholds, each at least as high as those before it, from full depth on
to the fastest. Along it a row first gets full depth's label and, at a later step, perhaps another
one: the row *breaks* at the first such step, and counts as broken from there on, even if it is
right again by chance. So the rows of a sample and of the population break in one common order, and
if they are exchangeable, each remaining row is equally likely to break next. The proof needs
nothing else (`allowed_failures`): no assumption about models or thresholds, no correction for a
grid, and any step before the sample's (c + 1)-th break may be chosen, for any reason. Wilks 1941
bounded the share of a population beyond an order statistic like this; in the terms of Angelopoulos
et al. 2021 (Learn then Test) it is fixed-sequence testing on a grid of all possible thresholds.

Parts of the path that are learned, such as temperatures, or chosen, use other rows.

Letters: n rows, E exits, J steps.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import binom, hypergeom

from fastbert.calibration.bounds import upper_bound
from fastbert.calibration.evaluation import ExitOutputs
from fastbert.calibration.temperatures import fit_temperatures
from fastbert.exits.operating_point import Evidence, OperatingPoint, Promise
from fastbert.exits.rules import TEMPERED, Threshold
from fastbert.inference.cost import CostModel

Array = np.ndarray[Any, Any]

#: Share of rows to prove on, if others are needed to learn temperatures or choose a criterion.
_LEARNING, _CHOOSING = 0.9, 0.6

#: Steps of a path.
_STEPS = 400


def allowed_failures(sample: int, promise: Promise) -> int:
    """The largest number c of broken rows in a sample that still proves a promise; -1 for none.

    The promise is broken despite c or fewer broken rows in the sample only if, of the first c +
    share * rows + 1 rows of both to break, c or fewer are in the sample: a hypergeometric
    probability, and the binomial one of Clopper and Pearson 1934 if the promise covers all rows.
    """

    def chance(failures: int) -> float:
        if promise.rows is None:
            return float(binom.cdf(failures, sample, promise.share))
        broken = failures + math.floor(promise.share * promise.rows) + 1
        return float(hypergeom.cdf(failures, sample + promise.rows, broken, sample))

    return bisect_right(range(sample), 1 - promise.confidence, key=chance) - 1


def rows_needed(promise: Promise) -> int:
    """The size of the smallest sample that can prove a promise, if no row breaks."""

    def provable(sample: int) -> bool:
        return allowed_failures(sample, promise) >= 0

    enough = 1
    while not provable(enough):
        enough *= 2
    return bisect_right(range(enough), False, key=provable)


@dataclass(frozen=True)
class Sample:
    """Rows to choose thresholds on, or to prove them."""

    outputs: ExitOutputs
    cost: CostModel
    truth: Array | None = None  # (n,), the task's targets, if harm depends on them
    corpus: str = ""  # that the rows come from
    precision: str = ""  # of the outputs
    within: tuple[float, ...] = ()  # of scores: the tolerance, or the cut-offs
    #: Time of heads per FLOP relative to layers, if measured.
    heads: float | None = None
    #: Answers (n,) to compare the exits with; by default full depth's.
    reference: Array | None = None

    def __len__(self) -> int:
        return len(self.outputs.lengths)

    @cached_property
    def fails(self) -> Array:
        """Where a row's answer is harmful, bool (E, n): it is not full depth's, or, with the truth,
        it is wrong and full depth's is right. If full depth's is not a number, every answer is
        harmful. A `reference` replaces full depth's answers, and may differ from the last
        exit's."""
        outputs, task = self.outputs, self.outputs.task
        right = outputs.answers[-1] if self.reference is None else self.reference
        fails = outputs.differs(right)
        if self.truth is not None:
            truth = task.truth(self.truth)
            nothing = task.differs(right, right)  # true for NaN
            fails = outputs.differs(truth) & ~task.differs(right, truth) | nothing
        return fails

    def by(self, point: OperatingPoint) -> "Sample":
        """The same sample, with answers compared by a point's criterion."""
        return replace(self, outputs=self.outputs.by(point.criterion, point.within or ()))

    def take(self, rows: Array) -> "Sample":
        """The sample of these rows, by number or mask."""
        truth, reference = (
            None if each is None else each[rows] for each in (self.truth, self.reference)
        )
        return replace(self, outputs=self.outputs.take(rows), truth=truth, reference=reference)


@dataclass(frozen=True)
class Path:
    """One threshold for all exits that may be used, from full depth to the fastest."""

    criterion: str
    levels: Array  # float64 (J,), rising; the first is 0, where no row leaves early
    exits: Array  # (E,) bool, those that may be used, the last included
    temperatures: list[float] | None = None  # E - 1, of tempered criteria
    within: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.levels)

    def thresholds(self, step: int) -> list[float]:
        """Thresholds at a step, one for each exit except the last."""
        found: list[float] = np.where(self.exits[:-1], self.levels[step], 0.0).tolist()
        return found

    def rule(self, step: int) -> Threshold:
        """The engine's rule at a step."""
        thresholds = self.thresholds(step)
        return Threshold.of(thresholds, self.criterion, self.temperatures, self.within)

    def heard(self, sample: Sample) -> Sample:
        """Outputs of the exits under its rules, the same at every step except the first."""
        return replace(sample, outputs=sample.outputs.heard(self.rule(len(self) - 1)))


def make_path(sample: Sample, criterion: str, exits: Array, learners: Sample) -> Path:
    """A path with steps at quantiles of the sample's uncertainties; learned parts are from other
    rows."""
    temperatures = fit_temperatures(learners.outputs) if criterion in TEMPERED else None
    path = Path(criterion, np.array([0.0, 1.0]), exits, temperatures, sample.within)
    seen = np.unique(path.heard(sample).outputs.uncertainties[:-1][exits[:-1]])
    seen = seen[np.isfinite(seen)]  # with a non-finite one no row leaves
    highest = float(seen[-1]) if len(seen) else 1.0
    # Halfway between two values, so that results do not depend on the last bit of a float.
    middles = np.append((seen[1:] + seen[:-1]) / 2.0, highest + 1e-3)
    levels = np.unique(middles[np.linspace(0, len(middles) - 1, _STEPS).astype(int)])
    return replace(path, levels=np.append(0.0, levels))


def breaking_steps(sample: Sample, path: Path) -> Array:
    """The step of a path where each row first fails: int (n,), J for never.

    Failures between two steps also count, so the proof covers all possible thresholds. Rows that
    fail at full depth, because the answer is not a number or not the reference's, fail from the
    first step on.
    """
    heard = path.heard(sample)
    fails, uncertainties = heard.fails, heard.outputs.uncertainties
    stays = np.isnan(uncertainties) | ~path.exits[:, None]
    uncertainties = np.where(stays, np.inf, uncertainties)
    # A row leaves at exit k for some threshold if and only if k is surer than all before.
    before = np.minimum.accumulate(uncertainties[:-1], axis=0)
    surer = np.vstack([np.ones((1, len(sample)), bool), uncertainties[1:-1] < before[:-1]])
    breaks = np.where(surer & fails[:-1], uncertainties[:-1], np.inf).min(0)
    breaks[fails[-1]] = 0.0
    return np.asarray(np.searchsorted(path.levels.astype(np.float32), breaks, side="right"))


def furthest_step(steps: Array, allowed: int, last: int) -> int:
    """The last step up to `last` at which at most `allowed` rows are broken."""
    if allowed >= len(steps):
        return last
    return min(int(np.partition(steps, allowed)[allowed]) - 1, last)


def furthest(sample: Sample, path: Path, allowed: int) -> Threshold:
    """The rule at the last step of a path at which at most `allowed` rows are broken."""
    return path.rule(furthest_step(breaking_steps(sample, path), allowed, len(path) - 1))


def speedup(sample: Sample, rule: Threshold) -> float:
    """Times fewer FLOPs than full depth, over all rows together."""
    exits = sample.outputs.exits(rule)
    return sample.cost.using(rule.used).speedup(sample.outputs.lengths, exits)


def proving(criteria: Sequence[str]) -> float:
    """The share of rows to prove on: all, with a single criterion that needs no learning."""
    if len(criteria) > 1:
        return _CHOOSING
    return _LEARNING if criteria[0] in TEMPERED else 1.0


def divided(sample: Sample, criteria: Sequence[str], seed: int) -> tuple[Sample, Sample]:
    """The rows to choose and learn on, and those to prove on; the same if nothing is learned."""
    share = proving(criteria)
    if share == 1:
        return sample, sample
    proves = np.random.default_rng(seed).random(len(sample)) < share
    return sample.take(~proves), sample.take(proves)


def keep_promise(
    sample: Sample, promise: Promise, criteria: Sequence[str], exits: Array, seed: int = 0
) -> OperatingPoint | None:
    """The fastest thresholds that keep the promise, by these criteria at these exits, bool (E,).

    A share of the rows, drawn with `seed`, is for the proof, and the others are for choosing and
    learning: see `proving`. None if the proof has too few rows: see `rows_needed`.
    """
    criterion = criteria[0]
    learners, sample = divided(sample, criteria, seed)
    allowed = allowed_failures(len(sample), promise)
    if allowed < 0:
        return None
    if len(criteria) > 1:
        criterion = _fastest(learners, promise, criteria, exits)
    path = make_path(sample, criterion, exits, learners)
    steps = breaking_steps(sample, path)
    step = furthest_step(steps, allowed, len(path) - 1)
    return replace(_point(sample, path, step, steps, promise.confidence), promise=promise)


def reach_speedup(
    sample: Sample, wanted: float, confidence: float, criterion: str, exits: Array
) -> OperatingPoint | None:
    """The slowest common threshold whose FLOPs speed-up on these rows is at least the `wanted`."""
    path = make_path(sample, criterion, exits, sample)

    def fast_enough(step: int) -> bool:
        return speedup(sample, path.rule(step)) >= wanted

    step = bisect_right(range(len(path)), False, key=fast_enough)
    if step == len(path):
        return None
    return _point(sample, path, step, breaking_steps(sample, path), confidence)


def _fastest(sample: Sample, promise: Promise, criteria: Sequence[str], exits: Array) -> str:
    """The criterion that saves most at the promised share; learns on half of the rows, and compares
    on the others."""

    def flops(criterion: str) -> float:
        total = 0.0
        for learner, judge in (halves, halves[::-1]):
            path = make_path(judge, criterion, exits, learner)
            rule = furthest(judge, path, math.floor(promise.share * len(judge)))
            left, cost = judge.outputs.exits(rule), judge.cost.using(rule.used)
            total += cost.row_flops(judge.outputs.lengths, left).sum()
        return total

    halves = [sample.take(np.arange(k, len(sample), 2)) for k in (0, 1)]
    return min(criteria, key=flops)


def _point(
    sample: Sample, path: Path, step: int, steps: Array, confidence: float
) -> OperatingPoint:
    """The point at a step of a path, still without a name, with its evidence on the rows."""
    rule = path.rule(step)
    broken = int((steps <= step).sum())
    depths = [each.depth for each in sample.cost.exits]
    evidence = Evidence(
        rows=len(sample),
        broken=broken,
        bound=upper_bound(broken, len(sample), confidence),
        exits=np.bincount(sample.outputs.exits(rule), minlength=len(depths)).tolist(),
        flops_speedup=speedup(sample, rule),
        corpus=sample.corpus,
        precision=sample.precision,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        exit_depths=depths,
    )
    return OperatingPoint(
        "",
        path.thresholds(step),
        path.criterion,
        evidence=evidence,
        exit_depths=depths,
        temperatures=path.temperatures,
        within=list(path.within) or None,
    )
