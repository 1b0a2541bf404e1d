"""Several questions about one row: each reads its part of a head's outputs.

Letters: n rows, N numbers of a head.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fastbert.exits.question import Question
from fastbert.exits.rules import Rule
from fastbert.tasks import task_of
from fastbert.tasks.task import Task

#: (task, its logits, perhaps its targets) -> a loss
Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Asked:
    """One question, and its part of logits and targets."""

    name: str  # "" for the only one
    task: Task
    numbers: slice  # of a head's N
    target: slice  # of a target's W


class Questions:
    """The questions of one model.

    With one question, logits and targets are the task's own. With several, both are concatenated in
    one row; a target has a number for each class, or the score. Losses are sums over questions;
    everything else is separate for each question.
    """

    def __init__(self, questions: Sequence[Question], names: Sequence[str]) -> None:
        """`names` of the classes of all questions, concatenated."""
        self.each: list[Asked] = []
        number = target = start = 0
        for question in questions:
            classes = question.classes or len(names)
            task = task_of(question, names[start : start + classes])
            ends = number + task.numbers, target + classes
            asked = Asked(question.name, task, slice(number, ends[0]), slice(target, ends[1]))
            self.each.append(asked)
            (number, target), start = ends, start + classes
        self.numbers, self.width = number, target

    def __iter__(self) -> Iterator[Asked]:
        return iter(self.each)

    @property
    def only(self) -> Task:
        """The task of the only question; ValueError if there are several."""
        (asked,) = self.each
        return asked.task

    @property
    def guessing(self) -> float:
        """The loss without any knowledge of a row."""
        return sum(asked.task.guessing for asked in self)

    @property
    def missing(self) -> Any:
        """The target of a row without one."""
        several = [math.nan] * self.width
        return several if len(self.each) > 1 else self.only.missing

    def by(self, rules: Sequence[Rule]) -> "Questions":
        """The same with the criteria of these rules, one for each question."""
        found = copy.copy(self)
        found.each = [
            replace(asked, task=asked.task.by(rule.criterion, rule.within))
            for asked, rule in zip(self, rules, strict=True)
        ]
        return found

    def with_scores(self) -> "Questions":
        """The same with the probability of every class in answers."""
        found = copy.copy(self)
        found.each = [replace(asked, task=asked.task.with_scores()) for asked in self]
        return found

    def targets(self, asked: Asked, targets: Any) -> Any:
        """The part of one question of an array or tensor for n rows."""
        if len(self.each) == 1:
            return targets
        own = targets[..., asked.target]
        return own[..., 0] if asked.task.question.kind == "score" else own

    def total(self, loss: Loss, *logits: torch.Tensor, targets: Any = None) -> torch.Tensor:
        """The sum of `loss` over questions, each with its task, its logits (..., N), and, if any,
        its targets."""
        found = []
        for asked in self:
            own = [each[..., asked.numbers] for each in logits]
            known = () if targets is None else (self.targets(asked, targets),)
            found.append(loss(asked.task, *own, *known))
        return torch.stack(found).sum(0)

    def pooled(self, logits: torch.Tensor, bounds: torch.Tensor, how: str) -> torch.Tensor:
        """Pooled logits (n, N) of the rows that windows (W, N) belong to, which begin and end at
        `bounds` (n + 1,): the mean or the largest number."""
        mean = torch.segment_reduce(logits, "mean", offsets=bounds)
        if how == "mean":
            return mean
        largest = torch.segment_reduce(logits, "max", offsets=bounds)
        for asked in self:
            if asked.task.question.kind == "score":  # no largest number for an error
                largest[:, asked.numbers.stop - 1] = mean[:, asked.numbers.stop - 1]
        return largest

    def prior(self, targets: torch.Tensor) -> torch.Tensor:
        """The best constant logits by the targets of n rows: (N,)."""
        return torch.cat([asked.task.prior(self.targets(asked, targets)) for asked in self])

    def shown(self, logits: torch.Tensor) -> torch.Tensor:
        """Outputs of Hugging Face's classifiers: logits (..., N) to (..., classes)."""
        return torch.cat([asked.task.shown(logits[..., asked.numbers]) for asked in self], -1)

    def settle(self, head: nn.Linear) -> None:
        """Prepare the last exit's map to N numbers, before training, as `Task.settle`."""
        for asked in self:
            asked.task.settle(head.weight[asked.numbers], head.bias[asked.numbers])
