"""One full pass knows every speed: it must say what the engine then does."""

from dataclasses import replace

import numpy as np
import pytest
from support.models import LAYERS, random_tokens, tiny_fastbert, with_bag

from fastbert.calibration.evaluation import exit_outputs, outcome, realised_speedups
from fastbert.exits.criteria import CRITERIA
from fastbert.exits.operating_point import OperatingPoint
from fastbert.exits.rules import Threshold, replay
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine

SCATTERED = [{"depth": 0}, {"depth": 2}, {"depth": 3, "head": "adopted"}]


def everywhere(threshold: float) -> Threshold:
    return Threshold.of(np.full(LAYERS - 1, threshold))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_fastbert(), batch_tokens=60)


@pytest.mark.parametrize("exits", [None, SCATTERED])
@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.5, 0.9])
def test_outcome_equals_the_engine(quantile, exits):
    model = tiny_fastbert(exits=exits)
    engine, cost = Engine(model, batch_tokens=60), CostModel(model)
    tokens = random_tokens(np.arange(2, 25), seed=7)
    outputs = exit_outputs(engine, tokens)
    speed = float(np.quantile(outputs.uncertainties, quantile)) * 1.001 * (quantile > 0)
    truth = outputs.answers[1]["label"]
    found = outcome(outputs, cost, everywhere(speed), truth)
    real = engine.classify(tokens, everywhere(speed))
    assert found.exits == np.bincount(real.exit, minlength=3).tolist()
    assert found.quality["accuracy"] == pytest.approx((real.answer["label"] == truth).mean())
    deepest = outputs.answers[-1]["label"]
    assert found.agreement == pytest.approx((real.answer["label"] == deepest).mean())
    depths = np.array([exit.depth for exit in model.exits])
    assert found.mean_layers == depths[real.exit].mean()
    flops = cost.using(everywhere(speed).used).row_flops(tokens.lengths, real.exit)
    assert found.flops == flops.sum()


def between(values: np.ndarray) -> float:
    """A number between the middle two of some."""
    seen = np.unique(values)
    return float(seen[(len(seen) - 1) // 2 :][:2].mean())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_one_pass_knows_where_the_engine_leaves(criterion):
    engine = Engine(tiny_fastbert(seed=5), batch_tokens=60)  # half of its rows change their label
    tokens = random_tokens(np.arange(2, 40), seed=3)
    outputs = exit_outputs(engine, tokens)
    uncertainties = outputs.by(criterion).uncertainties
    rule = Threshold.of([between(values) for values in uncertainties[:-1]], criterion)
    real = engine.classify(tokens, rule)
    exits = outputs.exits(rule)
    assert real.exit.tolist() == exits.tolist()
    assert len(set(exits.tolist())) > 1
    answered = uncertainties[exits, np.arange(len(tokens))]
    np.testing.assert_allclose(real.uncertainty, answered, atol=1e-6)
    deep = engine.classify(tokens, rule, np.ones(len(tokens), bool))
    assert deep.exit.tolist() == exits.tolist()
    assert deep.deep["label"].tolist() == outputs.answers[-1]["label"].tolist()


def test_an_exit_that_is_not_used_is_as_if_it_were_not_there():
    outputs = exit_outputs(Engine(with_bag(tiny_fastbert())), random_tokens(np.arange(2, 30)))
    rule = Threshold.of([0.6, 0.0, 0.6], "tempered-entropy", [0.5, 9.0, 1.5])
    without = Threshold.of([0.6, 0.6], "tempered-entropy", [0.5, 1.5])
    there = np.array([0, 2, 3])
    fewer = replace(outputs, logits=outputs.logits[there])
    assert np.array_equal(outputs.heard(rule).logits[there], fewer.heard(without).logits)
    assert np.array_equal(outputs.exits(rule), there[fewer.exits(without)])
    assert 0 < (outputs.exits(rule) < 3).mean() < 1


def test_exits_by_hand():
    uncertainties = np.array([[0.1, 0.9, 0.5], [0.9, 0.2, 0.9], [0.0, 0.0, np.nan]], np.float32)
    values = np.zeros((3, 3))

    def exits(*thresholds: float) -> list[int]:
        return replay(Threshold.of(thresholds), values, uncertainties).tolist()

    assert exits(0.3, 0.3) == [0, 1, 2]
    assert exits(0.0, 0.0) == [2, 2, 2]
    assert exits(0.5, 1.0) == [0, 1, 1]


def test_speed_zero_agrees_with_itself(engine):
    tokens = random_tokens([3, 9, 12])
    found = outcome(exit_outputs(engine, tokens), CostModel(tiny_fastbert()), everywhere(0))
    assert found.agreement == 1.0
    assert found.quality == {}
    assert found.flops_speedup == 1  # exits where no row leaves are not computed


def test_realised_speedups_are_measured(engine):
    tokens = random_tokens(np.full(40, 20))
    points = [OperatingPoint("", [speed] * (LAYERS - 1)) for speed in (0.0, 1.0)]
    found = realised_speedups(engine, tokens, points, repeats=2)
    assert len(found) == 2
    assert min(found) > 0  # which is larger depends on what else the machine does
