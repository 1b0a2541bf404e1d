"""How sure each exit may be: its temperature, fitted on rows that it has not learnt from.

A temperature T divides logits before they become probabilities (Guo et al. 2017). The one at which
full depth's answers are likeliest makes an exit as sure of them as it is right, so that one
threshold asks the same of all exits.

Letters: n rows, E exits.
"""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fastbert.calibration.evaluation import ExitOutputs

#: Where a temperature is sought, and in how many steps.
_LEAST, _MOST, _STEPS = 0.1, 8.0, 40


def fit_temperatures(outputs: ExitOutputs) -> list[float]:
    """Of the exits but the last, on these rows: those at which the answers of full depth are
    likeliest. Rows with a number that is not finite tell nothing; without any, all are 1."""
    logits = torch.from_numpy(outputs.logits)
    finite = logits.isfinite().all(-1).all(0)
    if not finite.any():
        return [1.0] * (len(logits) - 1)
    *students, teacher = logits[:, finite]
    grid = np.geomspace(_LEAST, _MOST, _STEPS).tolist()

    def cost(student: Tensor, temperature: float) -> float:
        # Few rows, all answered alike, would say that an exit is never wrong: a word for 1.
        total = outputs.task.surprise(outputs.task.soften(student, temperature), teacher).sum()
        return float(total) + math.log(temperature) ** 2

    return [min(grid, key=partial(cost, student)) for student in students]
