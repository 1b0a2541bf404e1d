"""Promises: arithmetic against definitions, and whether they are kept as often as they say."""

import re
from dataclasses import replace

import numpy as np
import pytest
from support.models import tiny_fastbert

from fastbert.calibration.bounds import interval, upper_bound
from fastbert.calibration.evaluation import ExitOutputs
from fastbert.calibration.points import _limit
from fastbert.calibration.promises import (
    Path,
    Sample,
    allowed_failures,
    breaking_steps,
    furthest_step,
    keep_promise,
    per_layer_path,
    reach_speedup,
    rows_needed,
    uniform_path,
)
from fastbert.exits.criteria import CRITERIA
from fastbert.exits.operating_point import Promise
from fastbert.exits.rules import Threshold, replay
from fastbert.inference.cost import CostModel
from fastbert.tasks.single_label import SingleLabel

EXITS, CLASSES = 4, 7
ONE_PERCENT = Promise(0.01, 0.95)


@pytest.fixture(scope="module")
def cost() -> CostModel:
    exits = [{"depth": 0}, {"depth": 1}, {"depth": 2}, {"depth": 3, "head": "adopted"}]
    return CostModel(tiny_fastbert(exits=exits))


def random_outputs(rows: int, seed: int) -> ExitOutputs:
    """Exits that get surer and agree more with the last one, on rows of all difficulties."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(CLASSES, size=rows)
    ease = rng.gamma(2.0, 1.5, rows)
    logits = rng.normal(size=(EXITS, rows, CLASSES))
    for exit in range(EXITS):
        logits[exit, np.arange(rows), truth] += ease * (exit + 2)
    task = SingleLabel([str(k) for k in range(CLASSES)])
    return ExitOutputs(logits.astype(np.float32), rng.integers(3, 60, rows), task)


def left(uncertainties: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Where rows leave, by number."""
    return replay(Threshold.of(thresholds), np.zeros(uncertainties.shape), uncertainties)


def sample_of(outputs: ExitOutputs, cost: CostModel) -> Sample:
    """With disagreement as the harm."""
    return Sample(outputs, disagreement(outputs), cost)


def disagreement(outputs: ExitOutputs) -> np.ndarray:
    return outputs.differs(outputs.answers[-1])


@pytest.mark.parametrize("sample", [299, 300, 1001, 7600])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_a_promise_about_all_rows_is_clopper_and_pearsons(sample, confidence):
    allowed = allowed_failures(sample, Promise(0.01, confidence))
    if allowed >= 0:
        assert upper_bound(allowed, sample, confidence) <= 0.01
    assert upper_bound(allowed + 1, sample, confidence) > 0.01


def test_rows_needed():
    assert rows_needed(ONE_PERCENT) == 299  # log 0.05 / log 0.99 = 298.07
    for promise in (ONE_PERCENT, Promise(0.02, 0.9, 50), Promise(0.01, 0.95, 10_000)):
        needed = rows_needed(promise)
        assert allowed_failures(needed, promise) >= 0
        assert allowed_failures(needed - 1, promise) == -1


def test_a_promise_about_few_rows_tends_to_that_about_all():
    limits = [allowed_failures(2000, Promise(0.01, 0.95, rows)) for rows in (100, 10**3, 10**7)]
    assert limits[0] < limits[1] <= limits[2] == allowed_failures(2000, ONE_PERCENT)


@pytest.mark.parametrize(("sample", "rest"), [(1500, 1000), (800, 4001)])
def test_a_promise_is_broken_as_seldom_as_it_says_and_hardly_less(sample, rest):
    """Rows break at random steps; a random sample chooses the step, the rest tells."""
    rng = np.random.default_rng(3)
    promise = Promise(0.02, 0.9, rest)
    allowed = allowed_failures(sample, promise)
    broken = 0
    for _ in range(4000):
        order = rng.permutation(sample + rest)  # row numbers in the order in which they break
        step = furthest_step(order[:sample], allowed, last=sample + rest)
        broken += np.mean(order[sample:] <= step) > promise.share
    assert 0.06 < broken / 4000 < 0.1 + 3 * (0.09 / 4000) ** 0.5


@pytest.mark.parametrize("rate", [0.0, 0.004, 0.2])
def test_the_interval_covers_the_truth(rate):
    rng = np.random.default_rng(4)
    found = [interval(int(k), 700, 0.95) for k in rng.binomial(700, rate, 1000)]
    assert np.mean([low <= rate <= high for low, high in found]) >= 0.95 - 0.01
    assert interval(0, 0, 0.95) == (0.0, 1.0)


@pytest.mark.parametrize("shape", ["uniform", "per-layer"])
def test_breaking_steps_by_the_slow_way(shape, cost):
    outputs = random_outputs(223, seed=5)
    fails = disagreement(outputs)
    path = uniform_path(outputs, "margin")
    if shape == "per-layer":
        path = per_layer_path(sample_of(outputs, cost), "margin")
    found = breaking_steps(sample_of(outputs, cost), path)
    for row in range(223):
        mine = outputs.uncertainties("margin")[:, row : row + 1]

        def broken(thresholds: np.ndarray, row: int = row, mine: np.ndarray = mine) -> bool:
            return bool(fails[left(mine, thresholds)[0], row])

        steps = [step for step, t in enumerate(path.thresholds) if broken(t)]
        if shape == "uniform":  # also at any threshold between two steps
            between = [np.nextafter(u, np.float32(2)) for u in mine[:-1, 0]]
            least = min((t for t in between if broken(np.full(EXITS - 1, t))), default=np.inf)
            steps += [s for s, t in enumerate(path.thresholds) if np.float32(t[0]) >= least]
        assert found[row] == min(steps, default=len(path.thresholds))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_paths_begin_at_full_depth_and_only_get_faster(criterion, cost):
    outputs = random_outputs(400, seed=6)
    learned = per_layer_path(sample_of(outputs, cost), criterion)
    for path in (uniform_path(outputs, criterion), learned):
        assert (path.thresholds[0] == 0).all()
        assert (np.diff(path.thresholds, axis=0) >= 0).all()
        found = [left(outputs.uncertainties(criterion), t) for t in path.thresholds]
        assert (found[0] == EXITS - 1).all()
        assert all((b <= a).all() for a, b in zip(found, found[1:], strict=False))
    assert (found[-1] < EXITS - 1).mean() > 0.5


def test_thresholds_per_exit_cost_least_where_they_were_learned(cost):
    """No single weight of failures is served better by one threshold for all exits."""
    outputs = random_outputs(3000, seed=7)
    fails = disagreement(outputs)
    rows = np.arange(3000)

    def least(path: Path, weight: float) -> float:
        losses = []
        for thresholds in path.thresholds:
            exits = left(outputs.uncertainties(), thresholds)
            flops = cost.row_flops(outputs.lengths, exits) / cost.full_flops(outputs.lengths).mean()
            losses.append(flops.sum() + weight * fails[exits, rows].sum())
        return min(losses)

    learned = per_layer_path(sample_of(outputs, cost), "entropy")
    uniform = uniform_path(outputs, "entropy")
    for weight in (2.0, 5.0, 20.0):
        assert least(learned, weight) < least(uniform, weight)


@pytest.mark.parametrize(
    ("criteria", "shapes"),
    [
        (("entropy",), ("uniform",)),
        (("top-entropy",), ("per-layer",)),
        (("entropy", "max-probability", "margin"), ("uniform", "per-layer")),
    ],
)
def test_promises_are_kept_on_the_rest(criteria, shapes, cost):
    """Samples of one finite corpus; thresholds chosen on them, judged on the rest of it."""
    corpus = random_outputs(6000, seed=8)
    fails = disagreement(corpus)
    promise = Promise(0.02, 0.9, 4000)
    broken, speedups = 0, []
    trials = 150 if len(criteria) == 1 else 40
    for seed in range(trials):
        order = np.random.default_rng(seed).permutation(6000)
        sample, rest = order[:2000], order[2000:]
        chosen = keep_promise(sample_of(corpus, cost).take(sample), promise, criteria, shapes, seed)
        assert chosen is not None
        assert chosen.evidence is not None
        exits = left(corpus.uncertainties(chosen.criterion)[:, rest], chosen.thresholds)
        broken += fails[exits, rest].mean() > promise.share
        speedups.append(chosen.evidence.flops_speedup)
    assert broken / trials <= 0.1 + 3 * (0.09 / trials) ** 0.5
    assert np.mean(speedups) > 1.3


def test_without_a_bound_the_promise_would_not_hold(cost):
    """What the proof is for: the point that just keeps it on the sample breaks it on the rest."""
    corpus = random_outputs(6000, seed=8)
    fails = disagreement(corpus)
    broken = 0
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(6000)
        sample, rest = order[:2000], order[2000:]
        path = uniform_path(corpus.take(sample), "entropy")
        steps = breaking_steps(sample_of(corpus, cost).take(sample), path)
        step = furthest_step(steps, 40, len(path.thresholds) - 1)
        exits = left(corpus.uncertainties()[:, rest], path.thresholds[step])
        broken += fails[exits, rest].mean() > 0.02
    assert broken > 25


def test_too_few_rows_choose_nothing(cost):
    few, enough = (sample_of(random_outputs(rows, seed=9), cost) for rows in (298, 299))
    assert keep_promise(few, ONE_PERCENT, ("entropy",), ("uniform",)) is None
    chosen = keep_promise(enough, ONE_PERCENT, ("entropy",), ("uniform",))
    assert chosen is not None
    assert chosen.evidence is not None
    assert chosen.evidence.broken == 0
    assert chosen.evidence.bound <= 0.01


def test_a_choice_says_what_its_thresholds_do(cost):
    outputs = random_outputs(2000, seed=10)
    fails = disagreement(outputs)
    sample = replace(sample_of(outputs, cost), corpus="s3://docs", precision="bf16")
    chosen = keep_promise(sample, ONE_PERCENT, ("entropy",), ("uniform",))
    assert chosen is not None
    evidence = chosen.evidence
    assert evidence is not None
    assert (chosen.promise, evidence.corpus, evidence.precision) == (
        *(ONE_PERCENT, "s3://docs", "bf16"),
    )
    assert chosen.exit_depths == evidence.exit_depths == [0, 1, 2, 3]
    exits = left(outputs.uncertainties(), chosen.thresholds)
    assert evidence.exits == np.bincount(exits, minlength=EXITS).tolist()
    assert evidence.broken >= fails[exits, np.arange(2000)].sum()
    assert evidence.bound == upper_bound(evidence.broken, 2000, 0.95) <= 0.01
    flops = cost.row_flops(outputs.lengths, exits).sum()
    assert evidence.flops_speedup == cost.full_flops(outputs.lengths).sum() / flops


def scarce(rows: int, cost: CostModel) -> Sample:
    """One row in 500 gets another label at the first exits, and the surest is among them."""
    outputs = random_outputs(rows, seed=12)
    logits = np.broadcast_to(outputs.logits[-1] * 3, outputs.logits.shape).copy()
    surest = outputs.uncertainties()[-1].argsort()[:: rows // (rows // 500 + 1)][: rows // 500 + 1]
    logits[:-1, surest] = -logits[:-1, surest]
    return sample_of(replace(outputs, logits=logits), cost)


def test_what_limits_a_point_is_said(cost):
    """Rows that prove too little, exits that agree too seldom, or nothing."""

    def said(sample: Sample, promise: Promise) -> str:
        point = keep_promise(sample, promise, ("entropy",), ("uniform",))
        assert point is not None
        return _limit(sample, point)

    few = said(scarce(320, cost), ONE_PERCENT)
    assert re.search("limited by the 320 rows that prove it: with many .* some [0-9.]+x", few)
    assert said(scarce(9_000, cost), ONE_PERCENT).startswith("limited by nothing")
    outputs = random_outputs(9_000, seed=13)
    model = said(sample_of(outputs, cost), ONE_PERCENT)
    assert "limited by the model, not by the 9000 rows" in model
    harmed = disagreement(outputs)[:-1].mean(1)
    assert "would harm " + "  ".join(f"{share:.1%}" for share in harmed) in model
    times = re.findall(r"([0-9.]+)x for 0.0[25]", model)
    assert float(times[0]) < float(times[1])


def test_a_speedup_is_reached_with_the_least_change(cost):
    outputs = random_outputs(1000, seed=11)
    sample = sample_of(outputs, cost)
    chosen = reach_speedup(sample, 1.7, 0.95, "max-probability")
    assert chosen is not None
    assert chosen.evidence is not None
    assert 1.7 <= chosen.evidence.flops_speedup < 1.75
    assert reach_speedup(sample, 1e6, 0.95, "entropy") is None
