"""Which rows leave where, and with which answer: what becomes of the logits of an exit.

Letters: n rows, N numbers that a head gives of a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastbert.exits.rules import NO_EXIT, Rule
from fastbert.tasks.questions import Asked, Questions
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


class Decision:
    """A rule at work on one question about n rows: keeps what it has found."""

    def __init__(
        self, rows: int, rule: Rule, asked: Asked, deep: Mask, device: torch.device
    ) -> None:
        """Rows marked in `deep` (n,) go on to full depth, wherever they leave. Logits come from a
        device."""
        self.rule, self.numbers, self.deep = rule, asked.numbers, deep
        self.task = asked.task.by(rule.criterion, rule.within)
        self.found = Predictions.none(rows, self.task)
        self.heard = torch.zeros(rows, self.task.numbers, device=device)
        #: The last exit that each row has come to: where memory did not suffice, it comes again.
        self.passed = np.full(rows, NO_EXIT, np.int8)

    def __call__(self, exit: int, rows: NDArray[np.int64], logits: torch.Tensor) -> Mask:
        rule, out = self.rule, self.found
        new = np.flatnonzero(self.passed[rows] < exit)
        if exit in rule.used and len(new):  # else another question wants it
            own = logits[:, self.numbers]
            if len(new) < len(rows):
                own = own[torch.from_numpy(new).to(own.device)]
            self._answer(exit, rows[new], own)
            self.passed[rows[new]] = exit
        stays: Mask = (out.exit[rows] == NO_EXIT) | self.deep[rows]
        return stays

    def _answer(self, exit: int, rows: NDArray[np.int64], logits: torch.Tensor) -> None:
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


class Decisions:
    """Rules at work on all questions about n rows, a `Decide`: a row goes on until it has all of
    its answers."""

    def __init__(
        self,
        rows: int,
        rules: Sequence[Rule],
        questions: Questions,
        deep: Mask,
        device: torch.device,
    ) -> None:
        """One rule for each question; the rest as of a `Decision`."""
        self.each = [
            Decision(rows, rule, asked, deep, device)
            for rule, asked in zip(rules, questions, strict=True)
        ]

    def __call__(self, exit: int, rows: NDArray[np.int64], logits: torch.Tensor) -> Mask:
        stays: Mask = np.logical_or.reduce([decide(exit, rows, logits) for decide in self.each])
        return stays

    @property
    def found(self) -> list[Predictions]:
        """By question."""
        return [decide.found for decide in self.each]


def exits_used(rules: Sequence[Rule]) -> NDArray[np.int64]:
    """Those that some rule asks, rising."""
    return np.unique(np.concatenate([rule.used for rule in rules]))


def row_exits(found: Sequence[Predictions]) -> NDArray[np.int8]:
    """Where rows have left, once all questions are answered; NO_EXIT for the others."""
    exits = np.stack([each.exit for each in found])
    left: NDArray[np.int8] = np.where((exits == NO_EXIT).any(0), NO_EXIT, exits.max(0))
    return left


def are_numbers(found: Sequence[Predictions]) -> Mask:
    """Which rows have numbers for answers to all questions."""
    finite: Mask = np.logical_and.reduce([np.isfinite(each.uncertainty) for each in found])
    return finite
