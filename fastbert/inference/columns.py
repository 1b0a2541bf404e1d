"""Answers as columns of a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastbert.exits.question import ANSWERS, prefix
from fastbert.inference.cost import CostModel, by_window
from fastbert.inference.decisions import Predictions, row_exits
from fastbert.tasks.questions import Questions

#: Error of a row whose answer is not a number.
NOT_A_NUMBER = "the model's answer is not a number"


def columns(
    found: Sequence[Predictions],
    lengths: NDArray[np.int64],
    given: NDArray[np.bool_],
    questions: Questions,
    cost: CostModel,
) -> dict[str, pa.Array]:
    """Columns for N rows with the answers to each question of the n rows that are `given` answers,
    bool (N,), null for others; `lengths` are their tokens, as for `CostModel`, and `cost` is that
    of the exits in use."""

    def spread(values: NDArray[Any]) -> NDArray[Any]:
        full = np.zeros(len(given), values.dtype)
        full[given] = values
        return full

    depths = np.array([each.depth for each in cost.exits], np.int8)
    exits = row_exits(found)
    numbers: dict[str, NDArray[Any]] = {
        "exit_layer": depths[exits],
        "tokens": by_window(lengths).sum(1).astype(np.int32),
        "flops": cost.row_flops(lengths, exits),
        "windows": (by_window(lengths) > 0).sum(1).astype(np.int32),
    }
    answers: dict[str, pa.Array] = {}
    for asked, said in zip(questions, found, strict=True):
        task, begins = asked.task, prefix(asked.name)
        main = ANSWERS[task.question.kind].names[0]
        own = {
            **task.write(spread(said.answer), given),
            "exit_layer": pa.array(spread(depths[said.exit]), mask=~given),
            "uncertainty": pa.array(spread(said.uncertainty), mask=~given),
            f"audit_{main}": task.write(spread(said.deep), spread(said.audited))[main],
        }
        answers |= {f"{begins}{name}": column for name, column in own.items()}
    return answers | {
        name: pa.array(spread(values), mask=~given) for name, values in numbers.items()
    }
