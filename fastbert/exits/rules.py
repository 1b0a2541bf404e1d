"""Who leaves where: the rule that the engine follows, and that evaluation replays.

Letters: n rows, E exits.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: What an uncertainty may mean: `exits.criteria` computes them, with torch.
CRITERION_NAMES = ("entropy", "top-entropy", "max-probability", "margin")
#: The paper's.
DEFAULT_CRITERION = "entropy"

#: Of an exit's answer, where none was given.
NO_EXIT = -1


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
    def exits(self) -> int:
        """How many exits it decides at."""

    def decide(self, exit: int, rows: NDArray[np.int64], answers: Answers) -> NDArray[np.bool_]:
        """Which of the rows (n,) that have come to an exit leave there, given its answers for them.

        `rows` numbers them among all rows at hand, for rules that remember.
        """


@dataclass(frozen=True)
class Threshold:
    """A row leaves at the first exit whose uncertainty is below the exit's threshold; the last exit
    answers all rows that come to it. Liu et al. 2020, section 3.3."""

    thresholds: NDArray[np.float32]  # (E - 1,)
    criterion: str = DEFAULT_CRITERION

    @classmethod
    def of(cls, thresholds: ArrayLike, criterion: str = DEFAULT_CRITERION) -> "Threshold":
        """From numbers of any kind; they are compared as float32, as uncertainties are."""
        return cls(np.asarray(thresholds, np.float32), criterion)

    @property
    def exits(self) -> int:
        return len(self.thresholds) + 1

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
