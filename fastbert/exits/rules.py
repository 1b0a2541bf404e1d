"""Rules for where rows leave: followed by the engine, replayed by evaluation.

Letters: n rows, E exits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Criteria of uncertainty by the kind of question, the default of `calibrate` first;
#: `fastbert.tasks` computes them, with torch. For a score, the criterion also defines when two
#: answers are equal.
CRITERIA_OF = {
    "single-label": ("tempered-entropy", "entropy", "top-entropy", "max-probability", "margin"),
    "several-labels": ("tempered-entropy", "entropy"),
    "score": ("tolerance", "cutoff", "spread"),
}
#: Criteria on all exits' answers so far, each softened by its own temperature.
TEMPERED = {"tempered-entropy", "tolerance", "cutoff"}
#: Criteria with numbers.
WITHIN = {"tolerance", "cutoff"}
#: Criterion of a single threshold for all exits, by the kind of question: the paper's for labels.
PLAIN = {"single-label": "entropy", "several-labels": "entropy", "score": "spread"}

#: Factor of an answer's weight in a tempered criterion for each following exit. It is part of the
#: criterion: with another number, stored points would change.
_FADING = 0.3

#: Exit index of rows without an answer.
NO_EXIT = -1

#: (logits (..., N), temperature) -> less sure logits
Soften = Callable[[Any, float], Any]


@dataclass(frozen=True)
class Answers:
    """Outputs of one exit for n rows."""

    values: NDArray[Any]  # (n,), structured: the task's dtype
    uncertainty: NDArray[np.float32]  # (n,), in [0, 1]

    def take(self, rows: NDArray[Any]) -> "Answers":
        """The outputs of rows, by number or mask."""
        return Answers(self.values[rows], self.uncertainty[rows])


class Rule(Protocol):
    """Decides which rows leave."""

    @property
    def criterion(self) -> str:
        """Its criterion of uncertainty, one of the task's."""

    @property
    def within(self) -> tuple[float, ...]:
        """Numbers of the criterion: the tolerance of scores, or their cut-offs."""

    @property
    def temperatures(self) -> NDArray[np.float32] | None:
        """By exit, if `heard` is not just the exit's own logits."""

    @property
    def exits(self) -> int:
        """The number of exits that it decides at."""

    @property
    def used(self) -> NDArray[np.int64]:
        """The exits that it uses, rising, the last included; the others need not be computed."""

    def heard(self, exit: int, logits: Any, before: Any, soften: Soften) -> Any:
        """The logits (n, N) that decide at a used exit, from its own and those that decided at the
        used exit before (None for the first). Always the last exit's own. `soften` is the
        task's."""

    def decide(self, exit: int, rows: NDArray[np.int64], answers: Answers) -> NDArray[np.bool_]:
        """Which of the rows (n,) at an exit leave there, given its answers for them. `rows` are
        their numbers among all rows, for rules with memory.
        """


@dataclass(frozen=True)
class Threshold:
    """A row leaves at the first exit whose uncertainty is below the exit's threshold; the last exit
    answers all rows that reach it. Liu et al. 2020, section 3.3.

    With temperatures, each exit's logits are softened by its own, so that its confidence matches
    its accuracy (Guo et al. 2017), and averaged with those of the exits passed before, each with
    `_FADING` times the weight of the next.
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
        """From numbers of any type; compared as float32, like uncertainties."""
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
        if exit == len(self.thresholds):  # even if the uncertainty is NaN
            return np.ones(len(rows), bool)
        return np.asarray(answers.uncertainty < self.thresholds[exit])


def replay(rule: Rule, values: NDArray[Any], uncertainties: NDArray[np.float32]) -> NDArray[Any]:
    """Where rows with known answers at every exit leave, values and uncertainties (E, n): index of
    the exit, int8 (n,)."""
    exits, rows = uncertainties.shape
    left = np.full(rows, NO_EXIT, np.int8)
    waiting = np.arange(rows)
    for exit in range(exits):
        answers = Answers(values[exit, waiting], uncertainties[exit, waiting])
        leaves = rule.decide(exit, waiting, answers)
        left[waiting[leaves]] = exit
        waiting = waiting[~leaves]
    return left
