"""What every task can do.

Letters: n rows, N numbers that a head gives of each.
"""

from collections import Counter
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from fastbert.exits.rules import Answers

#: What stands for a missing label among the targets of a loss.
NO_LABEL = -100


class Task(Protocol):
    """One kind of question: its answers, its losses, and when two answers are not the same.

    Answers on the host are structured arrays, one element per row, so that they are selected,
    gathered and put in place the same way whatever the task.
    """

    #: What one answer is, as columns of a table.
    columns: pa.Schema
    #: And as an element of an array.
    dtype: np.dtype[Any]

    def answer(self, logits: torch.Tensor, criterion: str) -> Answers:
        """Logits (n, N) on any device to answers on the host, in one transfer."""

    def uncertainty(self, logits: torch.Tensor, criterion: str) -> torch.Tensor:
        """Logits (..., N) to (...,), in [0, 1]: low where the head is sure."""

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of each row, logits (..., N) and targets (...,) to (...,); 0 where there is no target."""

    def distil(
        self, student: torch.Tensor, teacher: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """How far a student is from its teacher: logits (..., N) of both to (...,)."""

    def surprise(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """How unlikely a student finds its teacher's answer: logits (..., N) of both to (...,)."""

    def differs(self, early: NDArray[Any], deep: NDArray[Any]) -> NDArray[np.bool_]:
        """Where two arrays of answers are not the same: what promises and audits are about. An
        answer that is not a number is not the same as any, not even as itself."""

    def truth(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Known targets (n,) as the answers that a perfect head would give."""

    def count(self, answers: NDArray[Any]) -> Counter[str]:
        """How many rows have each answer, by its name."""

    def write(self, answers: NDArray[Any], given: NDArray[np.bool_]) -> dict[str, pa.Array]:
        """Answers (n,) as `columns`, null where none is `given` (n,)."""
