"""Which rows leave where, and with which answer: what becomes of the logits of an exit.

Letters: n rows, N numbers that a head gives of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastbert.exits.rules import NO_EXIT, Rule
from fastbert.tasks.task import Task

Mask = NDArray[np.bool_]
#: (exit, row numbers (n,), logits (n, N)) -> which rows go on, bool (n,)
Decide = Callable[[int, NDArray[np.int64], torch.Tensor], Mask]


@dataclass(frozen=True)
class Predictions:
    """Answers for n rows, in input order."""

    answer: NDArray[Any]  # (n,), of the task's dtype: for single labels `label` and `score`
    exit: NDArray[np.int8]  # (n,), index of the exit that gave it
    uncertainty: NDArray[np.float32]  # (n,), there
    deep: NDArray[Any]  # (n,), full depth's answers, like `answer`
    audited: Mask  # (n,), rows of which `deep` is known

    @classmethod
    def none(cls, rows: int, task: Task) -> "Predictions":
        """No answers yet."""
        return cls(
            answer=np.zeros(rows, task.dtype),
            exit=np.full(rows, NO_EXIT, np.int8),
            uncertainty=np.zeros(rows, np.float32),
            deep=np.zeros(rows, task.dtype),
            audited=np.zeros(rows, bool),
        )

    def take(self, rows: NDArray[Any]) -> "Predictions":
        """Those of some rows, by number or mask."""
        return Predictions(**{name: values[rows] for name, values in vars(self).items()})

    def put(self, rows: NDArray[np.int64], others: "Predictions") -> None:
        """Write those of others over some rows' own."""
        for name, values in vars(others).items():
            getattr(self, name)[rows] = values


class Decisions:
    """A rule at work on n rows: a `Decide` that keeps what it has found."""

    def __init__(self, rows: int, rule: Rule, task: Task, deep: Mask, device: torch.device) -> None:
        """Rows marked in `deep` (n,) go on to full depth, wherever they leave. Logits come from a
        device."""
        self.rule, self.task, self.deep = rule, task.by(rule.criterion, rule.within), deep
        self.found = Predictions.none(rows, task)
        self.heard = torch.zeros(rows, task.numbers, device=device)

    def __call__(self, exit: int, rows: NDArray[np.int64], logits: torch.Tensor) -> Mask:
        rule, out = self.rule, self.found
        if rule.temperatures is not None:
            at = torch.from_numpy(rows).to(logits.device)
            before = None if exit == rule.used[0] else self.heard[at]
            logits = rule.heard(exit, logits.float(), before, self.task.soften)
            self.heard[at] = logits
        answers = self.task.answer(logits)
        waiting = np.flatnonzero(out.exit[rows] == NO_EXIT)
        leaves = waiting[rule.decide(exit, rows[waiting], answers.take(waiting))]
        left = rows[leaves]
        out.answer[left] = answers.values[leaves]
        out.uncertainty[left] = answers.uncertainty[leaves]
        out.exit[left] = exit
        if exit == rule.exits - 1:
            audited = self.deep[rows]
            out.deep[rows[audited]] = answers.values[audited]
            out.audited[rows[audited]] = True
        stays: Mask = (out.exit[rows] == NO_EXIT) | self.deep[rows]
        return stays
