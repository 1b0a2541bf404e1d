"""Temperatures of exits, fitted on rows that were not used in training.

A temperature T divides logits before they become probabilities (Guo et al. 2017). The temperature
at which full depth's answers are likeliest makes an exit's confidence match its accuracy, so that
one threshold means the same at all exits.

Letters: n rows, E exits.
"""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fastbert.calibration.evaluation import ExitOutputs

#: Range of temperatures, and the number of steps of the search.
_LEAST, _MOST, _STEPS = 0.1, 8.0, 40


def fit_temperatures(outputs: ExitOutputs) -> list[float]:
    """Temperatures of all exits except the last, at which the answers of full depth to these rows
    are likeliest. Rows with a non-finite number are ignored; without other rows, all are 1."""
    logits = torch.from_numpy(outputs.logits)
    finite = logits.isfinite().all(-1).all(0)
    if not finite.any():
        return [1.0] * (len(logits) - 1)
    *students, teacher = logits[:, finite]
    grid = np.geomspace(_LEAST, _MOST, _STEPS).tolist()

    def cost(student: Tensor, temperature: float) -> float:
        # A few rows with equal answers would mean that an exit is never wrong: a prior for 1.
        total = outputs.task.surprise(outputs.task.soften(student, temperature), teacher).sum()
        return float(total) + math.log(temperature) ** 2

    return [min(grid, key=partial(cost, student)) for student in students]
