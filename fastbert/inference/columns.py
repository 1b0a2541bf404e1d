"""Answers as columns of a table."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastbert.exits.question import ANSWERS
from fastbert.inference.cost import CostModel
from fastbert.inference.decisions import Predictions
from fastbert.tasks.task import Task

#: Why a row that the model has seen may have no answer.
NOT_A_NUMBER = "the model's answer is not a number"


def columns(
    found: Predictions,
    lengths: NDArray[np.int64],
    given: NDArray[np.bool_],
    task: Task,
    cost: CostModel,
) -> dict[str, pa.Array]:
    """The answers of n rows of `lengths` tokens, as columns of all rows: those that are `given` an
    answer, bool (N,), n of them; the others are null. `cost` is that of the exits in use."""

    def spread(values: NDArray[Any]) -> NDArray[Any]:
        full = np.zeros(len(given), values.dtype)
        full[given] = values
        return full

    main = ANSWERS[task.question.kind].names[0]
    depths = np.array([each.depth for each in cost.exits], np.int8)
    numbers: dict[str, NDArray[Any]] = {
        "exit_layer": depths[found.exit],
        "uncertainty": found.uncertainty,
        "tokens": lengths.astype(np.int32),
        "flops": cost.row_flops(lengths, found.exit),
    }
    return {
        **task.write(spread(found.answer), given),
        **{name: pa.array(spread(values), mask=~given) for name, values in numbers.items()},
        f"audit_{main}": task.write(spread(found.deep), spread(found.audited))[main],
    }
