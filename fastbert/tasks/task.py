"""Interface of tasks.

Letters: n rows, N outputs of a head for each, K numbers of an answer.
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
    """One kind of question: its answers, its losses, and when two answers differ.

    Answers on the host are structured arrays, one element per row, so that selecting, gathering and
    assigning them is the same for all tasks.
    """

    question: Question
    #: Names of the classes, by index, or the name of a score.
    names: Sequence[str]
    #: N.
    numbers: int
    #: Dtype of one answer, as an element of an array.
    dtype: np.dtype[Any]
    #: The target of a row without one, for `loss`.
    missing: Any
    #: The mean of `loss` without any knowledge of a row.
    guessing: float

    def by(self, criterion: str, within: Sequence[float] = ()) -> Self:
        """The same with this criterion of `CRITERIA`."""

    def with_scores(self) -> Self:
        """The same with the probability of every class in answers."""

    def measure(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (n, N), on any device, to the numbers of answers: float32 (K, n), on that
        device."""

    def answers(self, measured: NDArray[np.float32]) -> Answers:
        """Answers from results of `measure`, on the host."""

    def uncertainty(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (..., N) to (...,), in [0, 1]: low where the head is sure."""

    def soften(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Logits (..., N) with the same answers, less sure for a higher temperature."""

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of each row, from logits (..., N) and targets to (...,); 0 without a target."""

    def given(self, targets: torch.Tensor) -> torch.Tensor:
        """Which targets are not `missing`, bool (...,)."""

    def distil(
        self, student: torch.Tensor, teacher: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """Distance of a student from its teacher: logits (..., N) of both to (...,)."""

    def surprise(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Negative log likelihood of the teacher's answer by the student: logits (..., N) of both
        to (...,)."""

    def certainty(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Closeness of a head to known targets, logits (n, N) to (n,): on few rows it is more
        informative than the share of right answers."""

    def differs(self, early: NDArray[Any], deep: NDArray[Any]) -> NDArray[np.bool_]:
        """Where two arrays of answers differ, as in promises and audits. An answer that is not a
        number differs from all, even from itself."""

    def truth(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Known targets of n rows as answers of a perfect head."""

    def quality(self, answers: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
        """Quality of answers (n,), by measure, the main one first."""

    def constant(self, answers: NDArray[Any]) -> tuple[str, float]:
        """The best constant answer for these (n,), and its quality by the first measure."""

    def prior(self, targets: torch.Tensor) -> torch.Tensor:
        """The best constant logits (N,), from the frequencies of the targets of n rows."""

    def count(self, answers: NDArray[Any]) -> Counter[str]:
        """Number of rows with each answer, by its name."""

    def write(self, answers: NDArray[Any], given: NDArray[np.bool_]) -> dict[str, pa.Array]:
        """Answers (n,) as the columns of `answer_columns`, null for rows that are not `given`
        (n,)."""

    def shown(self, logits: torch.Tensor) -> torch.Tensor:
        """Outputs of Hugging Face's classifiers of this kind: logits (..., N) to (..., classes)."""

    def take_over(
        self, weight: torch.Tensor, bias: torch.Tensor, theirs: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Set the last exit's map, weight (N, H) and bias (N,), from a classifier's map to its
        classes."""

    def settle(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Prepare the last exit's map, weight (N, H) and bias (N,), before training: sets outputs
        that do not depend on the row, such as the expected error, 0 for the reference exit."""


def answer(task: Task, logits: torch.Tensor) -> Answers:
    """Logits (n, N) on any device to answers on the host."""
    return task.answers(task.measure(logits).cpu().numpy())
