"""Who leaves where: the rule that the engine follows, and that evaluation replays.

Letters: n rows, E exits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: What an uncertainty may mean, by the kind of question, the one that `calibrate` takes by default
#: first: `fastbert.tasks` computes them, with torch. For a score it says when two answers count as
#: the same, too.
CRITERIA_OF = {
    "single-label": ("tempered-entropy", "entropy", "top-entropy", "max-probability", "margin"),
    "several-labels": ("tempered-entropy", "entropy"),
    "score": ("tolerance", "cutoff", "spread"),
}
#: Those of the exits' answers so far, each softened by a temperature of its own.
TEMPERED = {"tempered-entropy", "tolerance", "cutoff"}
#: Those that go with numbers.
WITHIN = {"tolerance", "cutoff"}
#: What a single threshold for all exits is about, by the kind of question: the paper's for labels.
PLAIN = {"single-label": "entropy", "several-labels": "entropy", "score": "spread"}

#: What an answer weighs in a tempered criterion with each exit that follows. Points that name one
#: mean this number: with another one it would be another criterion.
_FADING = 0.3

#: Of an exit's answer, where none was given.
NO_EXIT = -1

#: (logits (..., N), temperature) -> logits that are less sure by it
Soften = Callable[[Any, float], Any]


@dataclass(frozen=True)
class Answers:
    """What one exit says of n rows."""

    values: NDArray[Any]  # (n,), structured: the task's dtype
    uncertainty: NDArray[np.float32]  # (n,), in [0, 1]

    def take(self, rows: NDArray[Any]) -> "Answers":
        """Those of some rows, by number or mask."""
        return Answers(self.values[rows], self.uncertainty[rows])


class Rule(Protocol):
    """Decides which rows leave."""

    @property
    def criterion(self) -> str:
        """What uncertainty means to it: a criterion of the task."""

    @property
    def within(self) -> tuple[float, ...]:
        """Numbers that go with the criterion: how far scores may lie apart, or their cut-offs."""

    @property
    def temperatures(self) -> NDArray[np.float32] | None:
        """By exit, where `heard` is not just what an exit says itself."""

    @property
    def exits(self) -> int:
        """How many exits it decides at."""

    @property
    def used(self) -> NDArray[np.int64]:
        """The exits that it asks, rising; the others need not be computed. The last is one."""

    def heard(self, exit: int, logits: Any, before: Any, soften: Soften) -> Any:
        """What decides at an exit that is used: logits (n, N), given its own, and what decided at
        the used one before it, for the first one None. The last exit's own, always. `soften` is
        the task's."""

    def decide(self, exit: int, rows: NDArray[np.int64], answers: Answers) -> NDArray[np.bool_]:
        """Which of the rows (n,) that have come to an exit leave there, given its answers for them.

        `rows` numbers them among all rows at hand, for rules that remember.
        """


@dataclass(frozen=True)
class Threshold:
    """A row leaves at the first exit whose uncertainty is below the exit's threshold; the last exit
    answers all rows that come to it. Liu et al. 2020, section 3.3.

    With temperatures, an exit's logits are softened by its own, so that exits are as sure as they
    are right (Guo et al. 2017), and averaged with those of the exits passed before, each weighing
    `_FADING` times what the next one does.
    """

    thresholds: NDArray[np.float32]  # (E - 1,); an exit with 0 is not used
    criterion: str
    temperatures: NDArray[np.float32] | None = None  # (E - 1,)
    within: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        thresholds: ArrayLike,
        criterion: str = "entropy",
        temperatures: ArrayLike | None = None,
        within: Sequence[float] | None = None,
    ) -> "Threshold":
        """From numbers of any kind; they are compared as float32, as uncertainties are."""
        soft = None if temperatures is None else np.asarray(temperatures, np.float32)
        return cls(np.asarray(thresholds, np.float32), criterion, soft, tuple(within or ()))

    @property
    def exits(self) -> int:
        return len(self.thresholds) + 1

    @cached_property
    def used(self) -> NDArray[np.int64]:
        return np.append(np.flatnonzero(self.thresholds > 0), len(self.thresholds))

    def heard(self, exit: int, logits: Any, before: Any, soften: Soften) -> Any:
        if self.temperatures is None or exit == len(self.thresholds):
            return logits
        own = soften(logits, float(self.temperatures[exit]))
        if before is None:
            return own
        step = int(np.searchsorted(self.used, exit))
        return before + (own - before) * ((1 - _FADING) / (1 - _FADING ** (step + 1)))

    def decide(self, exit: int, rows: NDArray[np.int64], answers: Answers) -> NDArray[np.bool_]:
        if exit == len(self.thresholds):  # also where the uncertainty is not a number
            return np.ones(len(rows), bool)
        return np.asarray(answers.uncertainty < self.thresholds[exit])


def replay(rule: Rule, values: NDArray[Any], uncertainties: NDArray[np.float32]) -> NDArray[Any]:
    """Where rows leave whose answers at every exit are known, values and uncertainties (E, n):
    index of the exit, int8 (n,)."""
    exits, rows = uncertainties.shape
    left = np.full(rows, NO_EXIT, np.int8)
    waiting = np.arange(rows)
    for exit in range(exits):
        answers = Answers(values[exit, waiting], uncertainties[exit, waiting])
        leaves = rule.decide(exit, waiting, answers)
        left[waiting[leaves]] = exit
        waiting = waiting[~leaves]
    return left
