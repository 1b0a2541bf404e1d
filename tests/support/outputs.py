"""What exits would say: made up, with what they cost."""

import numpy as np

from fastbert.calibration.evaluation import ExitOutputs
from fastbert.inference.cost import CostModel
from fastbert.tasks.single_label import SingleLabel
from support.models import tiny_fastbert

EXITS, CLASSES = 4, 7


def cost_of_exits() -> CostModel:
    """Of a tiny model with so many exits, at depths 0 to 3."""
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
