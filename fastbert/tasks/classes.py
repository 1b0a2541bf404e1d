"""Common part of tasks whose heads give a number for each class.

Letters: n rows, N classes.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray


def listed(scores: NDArray[Any], given: NDArray[np.bool_]) -> pa.Array:
    """Numbers (n, N) as a list for each row, null for rows that are not `given` (n,)."""
    lengths = given * scores.shape[1]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = pa.array(np.ascontiguousarray(scores[given], np.float32).ravel())
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~given))


class OfClasses:
    """The part of a `Task` that is the same as in Hugging Face's classifiers."""

    def shown(self, logits: torch.Tensor) -> torch.Tensor:
        """Unchanged."""
        return logits

    @torch.no_grad()
    def take_over(
        self, weight: torch.Tensor, bias: torch.Tensor, theirs: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Unchanged."""
        weight.copy_(theirs[0])
        bias.copy_(theirs[1])

    def settle(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Nothing."""
