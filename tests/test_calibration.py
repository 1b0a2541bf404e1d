"""Promises: arithmetic against definitions, and whether they are kept as often as they say."""

import re
from dataclasses import replace

import numpy as np
import pytest
from support.outputs import CLASSES, EXITS, cost_of_exits, random_outputs

from fastbert.calibration.bounds import interval, upper_bound
from fastbert.calibration.evaluation import ExitOutputs, outcome
from fastbert.calibration.points import _limit
from fastbert.calibration.promises import (
    Sample,
    allowed_failures,
    breaking_steps,
    furthest,
    furthest_step,
    keep_promise,
    make_path,
    reach_speedup,
    rows_needed,
)
from fastbert.calibration.temperatures import fit_temperatures
from fastbert.exits.criteria import CRITERIA
from fastbert.exits.operating_point import Promise
from fastbert.inference.cost import CostModel
from fastbert.tasks.single_label import SingleLabel

ALL = np.ones(EXITS, bool)
ONE_PERCENT = Promise(0.01, 0.95)


@pytest.fixture(scope="module")
def cost() -> CostModel:
    return cost_of_exits()


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


@pytest.mark.parametrize("criterion", ["margin", "tempered-entropy"])
@pytest.mark.parametrize("exits", [ALL, np.array([True, False, True, True])])
def test_breaking_steps_by_the_slow_way(criterion, exits, cost):
    outputs = random_outputs(29, seed=5)
    sample = Sample(outputs, cost)
    path = make_path(sample, criterion, exits, sample)
    found = breaking_steps(sample, path)
    for row in range(29):
        mine = outputs.take(np.array([row]))

        def broken(level: float, mine: ExitOutputs = mine) -> bool:
            rule = replace(path, levels=np.array([level])).rule(0)
            return outcome(mine, cost, rule).agreement == 0

        steps = [step for step, level in enumerate(path.levels) if broken(level)]
        # Also at any level between two steps.
        heard = mine.heard(path.rule(1)).uncertainties[:-1, 0]
        between = [float(np.nextafter(u, np.float32(2))) for u in heard[exits[:-1]]]
        least = min(filter(broken, between), default=np.inf)
        steps += [s for s, level in enumerate(path.levels) if np.float32(level) >= least]
        assert found[row] == min(steps, default=len(path))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_paths_begin_at_full_depth_and_only_get_faster(criterion, cost):
    outputs = random_outputs(400, seed=6)
    sample = Sample(outputs, cost)
    path = make_path(sample, criterion, ALL, sample)
    assert path.levels[0] == 0
    assert (np.diff(path.levels) > 0).all()
    found = [outputs.exits(path.rule(step)) for step in range(len(path))]
    assert (found[0] == EXITS - 1).all()
    assert all((b <= a).all() for a, b in zip(found, found[1:], strict=False))
    assert (found[-1] < EXITS - 1).mean() > 0.5


def test_temperatures_make_exits_as_sure_as_they_are_right():
    """Of rows with a known chance to be right, blown up tenfold at one exit."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(EXITS, 20_000, CLASSES))
    chances = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
    deep = (chances.cumsum(-1) > rng.random((20_000, 1))).argmax(-1)
    logits[-1] = 9 * np.eye(CLASSES)[deep]
    logits[1], logits[2] = 5 * logits[0], logits[0] / 2
    task = SingleLabel([str(k) for k in range(CLASSES)])
    outputs = ExitOutputs(logits.astype(np.float32), np.full(20_000, 9), task)
    assert fit_temperatures(outputs) == pytest.approx([1.0, 5.0, 0.5], rel=0.15)


def test_few_rows_do_not_make_an_exit_certain():
    """None of five is wrong: that says little."""
    outputs = random_outputs(5, seed=2)
    outputs = replace(outputs, logits=np.repeat(outputs.logits[-1:], EXITS, axis=0))
    assert min(fit_temperatures(outputs)) > 0.2


def test_rows_without_finite_numbers_have_no_say_in_temperatures():
    outputs = random_outputs(50, seed=4)
    odd = outputs.logits.copy()
    odd[1, :25] = np.nan
    finite = outputs.take(np.arange(25, 50))
    assert fit_temperatures(replace(outputs, logits=odd)) == fit_temperatures(finite)
    assert fit_temperatures(replace(outputs, logits=odd * np.nan)) == [1.0] * (EXITS - 1)


@pytest.mark.parametrize(
    ("criteria", "exits"),
    [
        (("entropy",), ALL),
        (("tempered-entropy",), ALL),
        (("top-entropy",), np.array([False, True, True, True])),
        (("tempered-entropy", "max-probability", "margin"), ALL),
    ],
)
def test_promises_are_kept_on_the_rest(criteria, exits, cost):
    """Samples of one finite corpus; thresholds chosen on them, judged on the rest of it."""
    corpus = random_outputs(6000, seed=8)
    promise = Promise(0.02, 0.9, 4000)
    broken, speedups = 0, []
    trials = 60 if len(criteria) == 1 else 25
    for seed in range(trials):
        order = np.random.default_rng(seed).permutation(6000)
        sample, rest = order[:2000], order[2000:]
        chosen = keep_promise(Sample(corpus, cost).take(sample), promise, criteria, exits, seed)
        assert chosen is not None
        assert chosen.evidence is not None
        found = outcome(corpus.take(rest), cost, chosen.rule())
        assert all(np.array(found.exits)[~exits] == 0)
        broken += found.agreement < 1 - promise.share
        speedups.append(chosen.evidence.flops_speedup)
    assert broken / trials <= 0.1 + 3 * (0.09 / trials) ** 0.5
    assert np.mean(speedups) > 1.3


@pytest.mark.parametrize("own", [0.0, 0.01, 0.05])
def test_promises_against_another_full_depth(cost, own):
    """Which answers otherwise than full depth's own in a share of the rows."""
    corpus = random_outputs(6000, seed=8)
    reference = corpus.answers[-1].copy()
    other = np.random.default_rng(1).random(6000) < own
    reference["label"][other] = (reference["label"][other] + 1) % CLASSES
    against, promise = Sample(corpus, cost, reference=reference), Promise(0.02, 0.9, 4000)
    broken, trials, speedups = 0, 60, []
    for seed in range(trials):
        order = np.random.default_rng(seed).permutation(6000)
        sample, rest = order[:2000], order[2000:]
        point = keep_promise(against.take(sample), promise, ("entropy",), ALL, seed)
        assert point is not None
        left = corpus.take(rest).exits(point.rule())
        answers = corpus.answers[left, rest]
        broken += corpus.task.differs(answers, reference[rest]).mean() > promise.share
        speedups.append(point.evidence.flops_speedup)
        assert speedups[-1] == 1 or point.evidence.broken >= other[sample].sum()
    if own > promise.share:  # nothing is promised, which the caller refuses
        assert speedups == [1.0] * trials
        return
    assert broken / trials <= 0.1 + 3 * (0.09 / trials) ** 0.5
    assert np.mean(speedups) > 1.1


def test_without_a_bound_the_promise_would_not_hold(cost):
    """What the proof is for: the point that just keeps it on the sample breaks it on the rest."""
    corpus = random_outputs(6000, seed=8)
    fails = Sample(corpus, cost).fails
    broken = 0
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(6000)
        sample, rest = order[:2000], order[2000:]
        known = Sample(corpus, cost).take(sample)
        exits = corpus.take(rest).exits(
            furthest(known, make_path(known, "entropy", ALL, known), 40)
        )
        broken += fails[exits, rest].mean() > 0.02
    assert broken > 25


def test_too_few_rows_choose_nothing(cost):
    few, enough = (Sample(random_outputs(rows, seed=9), cost) for rows in (298, 299))
    assert keep_promise(few, ONE_PERCENT, ("entropy",), ALL) is None
    chosen = keep_promise(enough, ONE_PERCENT, ("entropy",), ALL)
    assert chosen is not None
    assert chosen.evidence is not None
    assert chosen.evidence.broken == 0
    assert chosen.evidence.bound <= 0.01


def test_a_choice_says_what_its_thresholds_do(cost):
    outputs = random_outputs(2000, seed=10)
    sample = Sample(outputs, cost, corpus="s3://docs", precision="bf16")
    chosen = keep_promise(sample, ONE_PERCENT, ("entropy",), ALL)
    assert chosen is not None
    evidence = chosen.evidence
    assert evidence is not None
    assert (chosen.promise, evidence.corpus, evidence.precision) == (
        *(ONE_PERCENT, "s3://docs", "bf16"),
    )
    assert chosen.exit_depths == evidence.exit_depths == [0, 1, 2, 3]
    exits = outputs.exits(chosen.rule())
    assert evidence.exits == np.bincount(exits, minlength=EXITS).tolist()
    assert evidence.broken >= sample.fails[exits, np.arange(2000)].sum()
    assert evidence.bound == upper_bound(evidence.broken, 2000, 0.95) <= 0.01
    flops = cost.row_flops(outputs.lengths, exits).sum()
    assert evidence.flops_speedup == cost.full_flops(outputs.lengths).sum() / flops


def scarce(rows: int, cost: CostModel) -> Sample:
    """One row in 500 gets another label at the first exits, and the surest is among them."""
    outputs = random_outputs(rows, seed=12)
    logits = np.broadcast_to(outputs.logits[-1] * 3, outputs.logits.shape).copy()
    surest = outputs.uncertainties[-1].argsort()[:: rows // (rows // 500 + 1)][: rows // 500 + 1]
    logits[:-1, surest] = -logits[:-1, surest]
    return Sample(replace(outputs, logits=logits), cost)


def test_what_limits_a_point_is_said(cost):
    """Rows that prove too little, exits that agree too seldom, or nothing."""

    def said(sample: Sample, promise: Promise) -> str:
        point = keep_promise(sample, promise, ("entropy",), ALL)
        assert point is not None
        return _limit(sample, point, ALL)

    few = said(scarce(320, cost), ONE_PERCENT)
    assert re.search("limited by the 320 rows that prove it: with many .* about [0-9.]+x", few)
    assert said(scarce(9_000, cost), ONE_PERCENT).startswith("not limited")
    outputs = random_outputs(9_000, seed=13)
    model = said(Sample(outputs, cost), ONE_PERCENT)
    assert "limited by the model, not by the 9000 rows" in model
    harmed = Sample(outputs, cost).fails[:-1].mean(1)
    assert "would harm " + "  ".join(f"{share:.1%}" for share in harmed) in model
    times = re.findall(r"([0-9.]+)x for 0.0[25]", model)
    assert float(times[0]) < float(times[1])


def test_a_speedup_is_reached_with_the_least_change(cost):
    outputs = random_outputs(1000, seed=11)
    sample = Sample(outputs, cost)
    chosen = reach_speedup(sample, 1.7, 0.95, "max-probability", ALL)
    assert chosen is not None
    assert chosen.evidence is not None
    assert 1.7 <= chosen.evidence.flops_speedup < 1.75
    assert reach_speedup(sample, 1e6, 0.95, "entropy", ALL) is None
