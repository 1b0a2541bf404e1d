"""What every task can do.

Letters: n rows, N numbers that a head gives of each, K numbers that an answer is made of.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from fastbert.exits.question import Question
from fastbert.exits.rules import Answers


class Task(Protocol):
    """One kind of question: its answers, its losses, and when two answers are not the same.

    Answers on the host are structured arrays, one element per row, so that they are selected,
    gathered and put in place the same way whatever the task.
    """

    question: Question
    #: Of the classes, by index; of a score, the one that it has.
    names: Sequence[str]
    #: N.
    numbers: int
    #: What one answer is, as an element of an array.
    dtype: np.dtype[Any]
    #: What a row's target is where there is none, for `loss`: like a target.
    missing: Any
    #: The mean of `loss` where nothing is known of a row.
    guessing: float

    def by(self, criterion: str, within: Sequence[float] = ()) -> Self:
        """The same where uncertainty means this criterion of `CRITERIA`."""

    def with_scores(self) -> Self:
        """The same whose answers hold the probability of every class, too."""

    def measure(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (n, N), on any device, to all that answers are made of: float32 (K, n), there."""

    def answers(self, measured: NDArray[np.float32]) -> Answers:
        """What `measure` has given, on the host."""

    def uncertainty(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (..., N) to (...,), in [0, 1]: low where the head is sure."""

    def soften(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Logits (..., N) that give the same answers, less surely for a higher temperature."""

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of each row, logits (..., N) and targets to (...,); 0 where there is no target."""

    def given(self, targets: torch.Tensor) -> torch.Tensor:
        """Which targets are not `missing`, bool (...,)."""

    def distil(
        self, student: torch.Tensor, teacher: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """How far a student is from its teacher: logits (..., N) of both to (...,)."""

    def surprise(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """How unlikely a student finds its teacher's answer: logits (..., N) of both to (...,)."""

    def certainty(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How near a head comes to known targets, logits (n, N) to (n,): it tells more of few rows
        than whether answers are right."""

    def differs(self, early: NDArray[Any], deep: NDArray[Any]) -> NDArray[np.bool_]:
        """Where two arrays of answers are not the same: what promises and audits are about. An
        answer that is not a number is not the same as any, not even as itself."""

    def truth(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Known targets of n rows as the answers that a perfect head would give."""

    def quality(self, answers: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
        """How good answers (n,) are, by measure; the first is the one that counts."""

    def constant(self, answers: NDArray[Any]) -> tuple[str, float]:
        """Which answer suits these (n,) best if it is the same for all, and the first measure of
        its quality."""

    def prior(self, targets: torch.Tensor) -> torch.Tensor:
        """What to say of a row without a look at it, from how frequent the targets of n others are:
        logits (N,)."""

    def count(self, answers: NDArray[Any]) -> Counter[str]:
        """How many rows have each answer, by its name."""

    def write(self, answers: NDArray[Any], given: NDArray[np.bool_]) -> dict[str, pa.Array]:
        """Answers (n,) as the columns of `answer_columns`, null where none is `given` (n,)."""

    def shown(self, logits: torch.Tensor) -> torch.Tensor:
        """What Hugging Face's classifiers of this kind give: logits (..., N) to (..., classes)."""

    def take_over(
        self, weight: torch.Tensor, bias: torch.Tensor, theirs: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Give the last exit's map, weight (N, H) and bias (N,), those of a classifier's to its
        classes."""

    def settle(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Prepare the last exit's map, weight (N, H) and bias (N,), before it learns: what does not
        depend on the row, as the exit that others are compared with is not off."""


def answer(task: Task, logits: torch.Tensor) -> Answers:
    """Logits (n, N) on any device to answers on the host."""
    return task.answers(task.measure(logits).cpu().numpy())
