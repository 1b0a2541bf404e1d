"""Decisions: which rows leave at an exit, and with which answers, from its logits.

Letters: n rows, N outputs of a head per row, K numbers of an answer.
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
#: Returns which rows continue, bool (n,), once the device has finished that.
Later = Callable[[], Mask]
#: (exit, row numbers (n,), logits (n, N)) -> which rows continue
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
        """The answers of rows, by number or mask."""
        return Predictions(**{name: values[rows] for name, values in vars(self).items()})

    def put(self, rows: NDArray[np.int64], others: "Predictions") -> None:
        """Replace the answers of rows by others."""
        for name, values in vars(others).items():
            getattr(self, name)[rows] = values


class Decision:
    """Applies a rule to one question about n rows, and keeps the answers.

    Work on the device and work on the host are separate, so that other rows can continue during
    transfers.
    """

    def __init__(
        self, rows: int, rule: Rule, asked: Asked, deep: Mask, device: torch.device
    ) -> None:
        """Rows marked in `deep` (n,) continue to full depth, wherever they leave."""
        self.rule, self.numbers, self.deep = rule, asked.numbers, deep
        self.task = asked.task.by(rule.criterion, rule.within)
        self.found = Predictions.none(rows, self.task)
        self.heard = torch.zeros(rows, self.task.numbers, device=device)
        #: The last exit in `heard`, and the last one that each row has reached: after a lack of
        #: memory, rows reach an exit again.
        self.heard_at = np.full(rows, NO_EXIT, np.int8)
        self.passed = np.full(rows, NO_EXIT, np.int8)

    def measure(
        self, exit: int, rows: NDArray[np.int64], logits: torch.Tensor
    ) -> torch.Tensor | None:
        """On the device, the answers of rows with these numbers (n,): float32 (K, n); None at an
        exit that only other questions use."""
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
        """On the host, which of the rows continue."""
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
    """Applies rules to all questions about n rows, a `Decide`: a row continues until it has all of
    its answers."""

    def __init__(
        self,
        rows: int,
        rules: Sequence[Rule],
        questions: Questions,
        deep: Mask,
        device: torch.device,
    ) -> None:
        """One rule for each question; otherwise as `Decision`."""
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
    """The exits that any rule uses, rising."""
    return np.unique(np.concatenate([rule.used for rule in rules]))


def row_exits(found: Sequence[Predictions]) -> NDArray[np.int8]:
    """Where rows left, with all questions answered; NO_EXIT for others."""
    exits = np.stack([each.exit for each in found])
    left: NDArray[np.int8] = np.where((exits == NO_EXIT).any(0), NO_EXIT, exits.max(0))
    return left


def are_numbers(found: Sequence[Predictions]) -> Mask:
    """Which rows have finite answers to all questions."""
    finite: Mask = np.logical_and.reduce([np.isfinite(each.uncertainty) for each in found])
    return finite
