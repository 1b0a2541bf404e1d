"""Which rows leave where, and with which answer: what becomes of the logits of an exit.

Letters: n rows, N numbers that a head gives of a row, K numbers that an answer is made of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastbert.exits.rules import NO_EXIT, Answers, Rule
from fastbert.packed.transfer import on_device, on_host
from fastbert.tasks.questions import Asked, Questions
from fastbert.tasks.task import Task

Mask = NDArray[np.bool_]
#: What gives which rows go on, bool (n,), once the device has come so far.
Later = Callable[[], Mask]
#: (exit, row numbers (n,), logits (n, N)) -> which rows go on
Decide = Callable[[int, NDArray[np.int64], torch.Tensor], Later]


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
    """A rule at work on one question about n rows: keeps what it has found.

    What goes over the device's numbers, and what goes over the host's, are apart, so that other
    rows may go on while numbers travel.
    """

    def __init__(
        self, rows: int, rule: Rule, asked: Asked, deep: Mask, device: torch.device
    ) -> None:
        """Rows marked in `deep` (n,) go on to full depth, wherever they leave. Logits come from a
        device."""
        self.rule, self.numbers, self.deep = rule, asked.numbers, deep
        self.task = asked.task.by(rule.criterion, rule.within)
        self.found = Predictions.none(rows, self.task)
        self.heard = torch.zeros(rows, self.task.numbers, device=device)
        #: The last exit that is in `heard`, and the last one that each row has come to: where
        #: memory did not suffice, it comes again.
        self.heard_at = np.full(rows, NO_EXIT, np.int8)
        self.passed = np.full(rows, NO_EXIT, np.int8)

    def measure(
        self, exit: int, rows: NDArray[np.int64], logits: torch.Tensor
    ) -> torch.Tensor | None:
        """On the device, what rows of these numbers (n,) get for answers: float32 (K, n); None at
        an exit that only other questions want."""
        rule = self.rule
        if exit not in rule.used:
            return None
        own = logits[:, self.numbers]
        if rule.temperatures is not None:
            at = on_device(rows, logits.device)
            before = None if exit == rule.used[0] else self.heard[at]
            own = rule.heard(exit, own.float(), before, self.task.soften)
            new = self.heard_at[rows] < exit
            if not new.all():
                own = torch.where(on_device(new, logits.device)[:, None], own, self.heard[at])
            self.heard[at] = own
            self.heard_at[rows] = exit
        return self.task.measure(own)

    def settle(
        self, exit: int, rows: NDArray[np.int64], measured: NDArray[np.float32] | None
    ) -> Mask:
        """On the host, which of the rows go on."""
        new = np.flatnonzero(self.passed[rows] < exit)
        if measured is not None and len(new):
            self._answer(exit, rows[new], self.task.answers(measured[:, new]))
            self.passed[rows[new]] = exit
        stays: Mask = (self.found.exit[rows] == NO_EXIT) | self.deep[rows]
        return stays

    def _answer(self, exit: int, rows: NDArray[np.int64], answers: Answers) -> None:
        rule, out = self.rule, self.found
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

    def __call__(self, exit: int, rows: NDArray[np.int64], logits: torch.Tensor) -> Later:
        asked = [each.measure(exit, rows, logits) for each in self.each]
        there = [measured for measured in asked if measured is not None]
        sizes = [0 if measured is None else len(measured) for measured in asked]
        numbers = on_host(torch.cat(there))  # for all questions at once

        def settled() -> Mask:
            parts = np.split(numbers(), np.cumsum(sizes)[:-1])
            stays: Mask = np.logical_or.reduce(
                [
                    each.settle(exit, rows, part if size else None)
                    for each, part, size in zip(self.each, parts, sizes, strict=True)
                ]
            )
            return stays

        return settled

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
