"""One label out of N: softmax, cross entropy, Kullback-Leibler divergence.

Letters: n rows, N classes.
"""

import copy
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fastbert.exits.criteria import CRITERIA
from fastbert.exits.question import Question
from fastbert.exits.rules import Answers
from fastbert.tasks.classes import OfClasses, listed

#: Target of a loss for a missing label.
NO_LABEL = -100


class SingleLabel(OfClasses):
    """A `Task`: each row has one of the named classes. Targets are class indices, or rows of N
    probabilities."""

    def __init__(self, names: Sequence[str], question: Question | None = None) -> None:
        """`names` of the classes, by index."""
        self.question, self.names = question or Question(), names
        self.numbers = len(names)
        self.missing: Any = NO_LABEL
        self.guessing = math.log(len(names))
        self.dtype = np.dtype([("label", np.int32), ("score", np.float32)])
        self.all_scores = False
        self._of = CRITERIA["entropy"]
        self._names = pa.array(names, pa.string())

    def by(self, criterion: str, within: Sequence[float] = ()) -> Self:
        """As in `Task`."""
        task = copy.copy(self)
        task._of = CRITERIA[criterion]
        return task

    def with_scores(self) -> Self:
        """As in `Task`."""
        task = copy.copy(self)
        task.dtype = np.dtype([*self.dtype.descr, ("scores", np.float32, (self.numbers,))])
        task.all_scores = True
        return task

    def measure(self, logits: torch.Tensor) -> torch.Tensor:
        """The likeliest class, its probability and uncertainty; optionally all probabilities."""
        log_p = logits.float().log_softmax(-1)
        best, label = log_p.max(-1)
        columns = torch.stack([label.float(), best.exp(), self._of(log_p)])
        return torch.cat([columns, log_p.exp().T]) if self.all_scores else columns

    def answers(self, measured: NDArray[np.float32]) -> Answers:
        """As in `Task`."""
        values = np.empty(measured.shape[1], self.dtype)
        values["label"], values["score"] = measured[0], measured[1]
        if self.all_scores:
            values["scores"] = measured[3:].T
        return Answers(values, measured[2])

    def uncertainty(self, logits: torch.Tensor) -> torch.Tensor:
        """By a criterion of `CRITERIA`."""
        return self._of(logits.float().log_softmax(-1))

    def soften(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Divided by the temperature (Guo et al. 2017)."""
        return logits / temperature

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy."""
        if targets.is_floating_point():
            surprise = -(targets.nan_to_num() * logits.log_softmax(-1)).sum(-1)
            return torch.where(self.given(targets), surprise, 0.0)
        flat = functional.cross_entropy(
            logits.flatten(0, -2), targets.flatten(), reduction="none", ignore_index=NO_LABEL
        )
        return flat.view(targets.shape)

    def given(self, targets: torch.Tensor) -> torch.Tensor:
        """Class indices that are not NO_LABEL; probabilities that are numbers."""
        return ~targets.isnan().any(-1) if targets.is_floating_point() else targets != NO_LABEL

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

    def certainty(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The probability of the right class."""
        right = targets.argmax(-1) if targets.is_floating_point() else targets
        return logits.softmax(-1).gather(-1, right[:, None])[:, 0]

    def differs(self, early: NDArray[Any], deep: NDArray[Any]) -> NDArray[np.bool_]:
        """Different labels, for any scores; an answer that is not a number differs from all."""
        nothing = np.isnan(early["score"]) | np.isnan(deep["score"])
        return np.asarray((early["label"] != deep["label"]) | nothing)

    def truth(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Class indices, or the likeliest classes of probabilities, as certain answers."""
        values = np.zeros(len(targets), self.dtype)
        values["label"] = targets if targets.ndim == 1 else targets.argmax(1)
        values["score"] = 1.0
        return values

    def quality(self, answers: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
        """Share of rows with the right label."""
        return {"accuracy": float(1 - self.differs(answers, truth).mean())}

    def constant(self, answers: NDArray[Any]) -> tuple[str, float]:
        """The most frequent label, and its share of the rows."""
        counts = np.bincount(answers["label"], minlength=self.numbers)
        best = int(counts.argmax())
        return self.names[best], float(counts[best] / len(answers))

    def prior(self, targets: torch.Tensor) -> torch.Tensor:
        """Logarithms of the shares of labels, with one more row for each."""
        chances = targets[self.given(targets)]
        if not targets.is_floating_point():
            chances = functional.one_hot(chances.long(), self.numbers).float()
        return ((chances.sum(0) + 1) / (len(chances) + self.numbers)).log()

    def count(self, answers: NDArray[Any]) -> Counter[str]:
        """Rows by name of the label; names may repeat."""
        counts: Counter[str] = Counter()
        for index, rows in enumerate(np.bincount(answers["label"]).tolist()):
            if rows:
                counts[self.names[index]] += rows
        return counts

    def write(self, answers: NDArray[Any], given: NDArray[np.bool_]) -> dict[str, pa.Array]:
        """Names and scores."""
        columns = {
            "label": self._names.take(pa.array(answers["label"], mask=~given)),
            "score": pa.array(answers["score"], mask=~given),
        }
        if self.all_scores:
            columns["scores"] = listed(answers["scores"], given)
        return columns
