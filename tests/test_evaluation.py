"""One full pass knows every speed: it must say what the engine then does."""

import numpy as np
import pytest
from support.models import LAYERS, random_tokens, tiny_fastbert

from fastbert.calibration.evaluation import (
    ExitOutputs,
    exit_layers,
    exit_outputs,
    outcome,
    realised_speedups,
)
from fastbert.exits.criteria import CRITERION_NAMES
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_fastbert(), batch_tokens=60)


@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.5, 0.9])
def test_outcome_equals_the_engine(engine, quantile):
    tokens = random_tokens(np.arange(2, 25), seed=7)
    outputs = exit_outputs(engine, tokens)
    speed = float(np.quantile(outputs.uncertainties(), quantile)) * 1.001 * (quantile > 0)
    truth = outputs.labels[1]
    found = outcome(outputs, CostModel.of(tiny_fastbert().config), speed, truth)
    real = engine.classify(tokens, np.full(LAYERS - 1, speed))
    assert found.exits == np.bincount(real.exit_layer, minlength=LAYERS + 1)[1:].tolist()
    assert found.accuracy == (real.label == truth).mean()
    assert found.agreement == (real.label == outputs.labels[-1]).mean()
    assert found.mean_layers == real.exit_layer.mean()
    cost = CostModel.of(tiny_fastbert().config)
    assert found.flops == cost.row_flops(tokens.lengths, real.exit_layer).sum()


def between(values: np.ndarray) -> float:
    """A number between the middle two of some."""
    seen = np.unique(values)
    return float(seen[(len(seen) - 1) // 2 :][:2].mean())


@pytest.mark.parametrize("criterion", CRITERION_NAMES)
def test_one_pass_knows_where_the_engine_leaves(criterion):
    engine = Engine(tiny_fastbert(seed=5), batch_tokens=60)  # half of its rows change their label
    tokens = random_tokens(np.arange(2, 40), seed=3)
    outputs = exit_outputs(engine, tokens)
    uncertainties = outputs.uncertainties(criterion)
    thresholds = np.array([between(values) for values in uncertainties[:-1]])
    real = engine.classify(tokens, thresholds, criterion=criterion)
    exits = exit_layers(uncertainties, thresholds)
    assert real.exit_layer.tolist() == exits.tolist()
    assert len(set(exits.tolist())) > 1
    answered = uncertainties[exits - 1, np.arange(len(tokens))]
    np.testing.assert_allclose(real.uncertainty, answered, atol=1e-6)
    deep = engine.classify(tokens, thresholds, np.ones(len(tokens), bool), criterion)
    assert deep.exit_layer.tolist() == exits.tolist()
    assert deep.deep_label.tolist() == outputs.labels[-1].tolist()


def test_patience_by_hand():
    answers = np.array([[0, 1, 2], [0, 1, 0], [0, 2, 0], [0, 2, 0]])
    log_p = np.log(np.eye(3)[answers] * 0.9 + 0.1 / 3).astype(np.float32)
    found = ExitOutputs(log_p, np.ones(3)).uncertainties("patience")
    streaks = [[1, 1, 1], [2, 2, 1], [3, 1, 2], [4, 2, 3]]
    np.testing.assert_allclose(found, 1 - np.array(streaks) / 4, atol=1e-7)


def test_exit_layers_by_hand():
    uncertainties = np.array([[0.1, 0.9, 0.5], [0.9, 0.2, 0.9], [0.0, 0.0, 0.9]], np.float32)
    assert exit_layers(uncertainties, np.array([0.3, 0.3])).tolist() == [1, 2, 3]
    assert exit_layers(uncertainties, np.array([0.0, 0.0])).tolist() == [3, 3, 3]
    assert exit_layers(uncertainties, np.array([0.5, 1.0])).tolist() == [1, 2, 2]


def test_speed_zero_agrees_with_itself(engine):
    tokens = random_tokens([3, 9, 12])
    found = outcome(exit_outputs(engine, tokens), CostModel.of(tiny_fastbert().config), 0.0)
    assert found.agreement == 1.0
    assert found.accuracy is None
    assert found.flops_speedup < 1  # the branches cost and bring nothing


def test_realised_speedups_are_measured(engine):
    tokens = random_tokens(np.full(40, 20))
    points = [OperatingPoint("", [speed] * (LAYERS - 1)) for speed in (0.0, 1.0)]
    found = realised_speedups(engine, tokens, points, repeats=2)
    assert len(found) == 2
    assert min(found) > 0  # which is larger depends on what else the machine does
