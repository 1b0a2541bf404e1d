"""One label out of N: softmax, cross entropy, Kullback-Leibler divergence.

Letters: n rows, N classes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fastbert.exits.criteria import CRITERIA
from fastbert.exits.rules import Answers
from fastbert.tasks.task import NO_LABEL


class SingleLabel:
    """A `Task`: each row has one of the named classes."""

    columns = pa.schema([("label", pa.string()), ("score", pa.float32())])
    dtype = np.dtype([("label", np.int32), ("score", np.float32)])

    def __init__(self, names: Sequence[str]) -> None:
        """`names` of the classes, by index."""
        self.names = pa.array(names, pa.string())

    def answer(self, logits: torch.Tensor, criterion: str) -> Answers:
        """The likeliest class, its probability, and how unsure that is."""
        log_p = logits.float().log_softmax(-1)
        best, label = log_p.max(-1)
        # One transfer, so one synchronisation.
        found = torch.stack([label.float(), best.exp(), CRITERIA[criterion](log_p)]).cpu().numpy()
        values = np.empty(len(logits), self.dtype)
        values["label"], values["score"] = found[0], found[1]
        return Answers(values, found[2])

    def uncertainty(self, logits: torch.Tensor, criterion: str) -> torch.Tensor:
        """By a criterion of `CRITERIA`."""
        return CRITERIA[criterion](logits.float().log_softmax(-1))

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy; `targets` are class indices, or NO_LABEL."""
        flat = functional.cross_entropy(
            logits.flatten(0, -2), targets.flatten(), reduction="none", ignore_index=NO_LABEL
        )
        return flat.view(targets.shape)

    def distil(
        self, student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """KL(teacher || student), both softened by the temperature T, multiplied by T^2.

        Liu et al. 2020, equation 6 (equation 5 prints the other direction; this is the one that the
        authors' code computes); the temperature is Hinton et al. 2015, section 2.
        """
        wanted = (teacher / temperature).log_softmax(-1)
        given = (student / temperature).log_softmax(-1)
        divergence = functional.kl_div(
            given, wanted.expand_as(given), reduction="none", log_target=True
        )
        return divergence.sum(-1) * temperature**2

    def surprise(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Cross entropy of the teacher's label."""
        return self.loss(student, teacher.argmax(-1))

    def differs(self, early: NDArray[Any], deep: NDArray[Any]) -> NDArray[np.bool_]:
        """Another label, whatever the score; an answer that is not a number differs from any."""
        nothing = np.isnan(early["score"]) | np.isnan(deep["score"])
        return np.asarray((early["label"] != deep["label"]) | nothing)

    def truth(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Class indices as certain answers."""
        values = np.empty(len(targets), self.dtype)
        values["label"], values["score"] = targets, 1.0
        return values

    def count(self, answers: NDArray[Any]) -> Counter[str]:
        """Rows by name of the label; names may repeat."""
        counts: Counter[str] = Counter()
        for index, rows in enumerate(np.bincount(answers["label"]).tolist()):
            if rows:
                counts[self.names[index].as_py()] += rows
        return counts

    def write(self, answers: NDArray[Any], given: NDArray[np.bool_]) -> dict[str, pa.Array]:
        """Names and scores."""
        return {
            "label": self.names.take(pa.array(answers["label"], mask=~given)),
            "score": pa.array(answers["score"], mask=~given),
        }
