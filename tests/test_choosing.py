"""Exits that pay: who chooses them, by what, and that promises do not hear of it."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.models import random_tokens
from support.outputs import EXITS, cost_of_exits, random_outputs

from fastbert.calibration import choosing, points
from fastbert.calibration.choosing import heads_on_clock, paying
from fastbert.calibration.evaluation import ExitOutputs
from fastbert.calibration.points import promised_point
from fastbert.calibration.promises import Sample, divided
from fastbert.errors import InputError
from fastbert.exits.operating_point import Promise
from fastbert.inference.cost import CostModel

CRITERION = "tempered-entropy"
ALL = np.ones(EXITS, bool)
ONE_PERCENT = Promise(0.01, 0.95)


@pytest.fixture(scope="module")
def cost() -> CostModel:
    return cost_of_exits()


@pytest.fixture
def sample(cost) -> Sample:
    """Of whose exits the second says nothing."""
    outputs = random_outputs(3000, seed=7)
    outputs.logits[1] = np.random.default_rng(1).normal(size=outputs.logits[1].shape) / 100
    return Sample(outputs, cost, heads=1.0)


def heavy(sample: Sample, heads: float) -> Sample:
    return Sample(sample.outputs, sample.cost, heads=heads)


def test_heads_that_weigh_more_cost_more(cost):
    lengths, exits = np.array([3, 40, 17]), np.array([0, 3, 1])
    once, thrice = cost.row_flops(lengths, exits), cost.weighing(3).row_flops(lengths, exits)
    heads = np.array([head.flops(lengths) for head in cost.heads])
    own = np.array([heads[: k + 1, row].sum() for row, k in enumerate(exits)])
    assert np.array_equal(thrice - once, 2 * own)
    whole = cost.weighing(3).full_flops(lengths) - cost.full_flops(lengths)
    assert np.array_equal(whole, 2 * heads[-1])


def test_an_exit_that_says_nothing_does_not_pay_and_others_do(sample):
    assert paying(sample, CRITERION, 0.01, ALL).tolist() == [True, False, True, True]


def test_no_exit_but_the_best_pays_where_heads_cost_more_than_layers(sample):
    assert paying(heavy(sample, 1000.0), CRITERION, 0.01, ALL).sum() == 2


def test_only_named_exits_are_chosen_from(sample):
    named = np.array([True, True, False, True])
    assert paying(sample, CRITERION, 0.01, named).tolist() == [True, False, False, True]


def test_rows_that_prove_do_not_choose(sample, monkeypatch):
    """Else the proof would be of thresholds that it has helped to find."""
    proves = np.setdiff1d(
        np.arange(len(sample)), divided(numbered(sample), (CRITERION,), 3)[0].outputs.lengths
    )
    worse = sample.outputs.logits.copy()
    worse[:, proves] = np.random.default_rng(2).permuted(worse[:, proves], axis=1)
    other = Sample(
        ExitOutputs(worse, sample.outputs.lengths, sample.outputs.task), sample.cost, heads=1.0
    )
    chosen = []
    monkeypatch.setattr(points, "keep_promise", lambda *given: chosen.append(given[3]))
    for each in (sample, other):
        with pytest.raises(InputError):
            promised_point(each, ONE_PERCENT, seed=3)
    assert np.array_equal(*chosen)
    assert not chosen[0][1]
    # Control: they would choose otherwise.
    assert not np.array_equal(chosen[0], paying(other.take(proves), CRITERION, 0.01, ALL))


def numbered(sample: Sample) -> Sample:
    """The same with row numbers for lengths."""
    rows = np.arange(len(sample))
    return Sample(ExitOutputs(sample.outputs.logits, rows, sample.outputs.task), sample.cost)


def test_without_a_clock_all_exits_are_used(sample):
    without = Sample(sample.outputs, sample.cost)
    assert all(promised_point(without, ONE_PERCENT).thresholds)


def test_where_all_rows_prove_none_choose(sample):
    assert all(promised_point(sample, ONE_PERCENT, "entropy").thresholds)


def test_what_is_left_out_is_said(sample, caplog):
    caplog.set_level("INFO")
    promised_point(sample, ONE_PERCENT)
    assert "the exits at depth 1 do not pay, and are left out" in caplog.text


@pytest.mark.parametrize(("slower", "expected"), [(1.0, 1.0), (4.0, 4.0), (0.2, 1.0)])
def test_the_clock_of_heads(monkeypatch, cost, slower, expected):
    """Seconds made up of FLOPs; heads are `slower` than layers by so much."""
    tokens = random_tokens(np.array([5, 9, 30]))
    clock = [0.0]

    def exit_logits(rows, exits):
        lengths = rows.costly
        heads = sum(cost.heads[k].flops(lengths).sum() for k in exits if k < 3)
        clock[0] += cost.full_flops(lengths).sum() + slower * heads

    monkeypatch.setattr(choosing.time, "perf_counter", lambda: clock[0])
    engine = SimpleNamespace(exits=cost.exits, exit_logits=exit_logits)
    assert heads_on_clock(engine, cost, tokens) == pytest.approx(expected)
