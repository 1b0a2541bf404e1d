"""Any number of N labels: a decision for each, by a sigmoid and a cut-off.

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

from fastbert.exits.question import Question
from fastbert.exits.rules import Answers
from fastbert.tasks.classes import OfClasses, listed

#: Name under which rows without a label are counted.
_NONE = "(none)"


class SeveralLabels(OfClasses):
    """A `Task`: each row has the named classes whose probability is above the class's cut-off.
    Targets are rows of N probabilities, 0 or 1 if they are known."""

    def __init__(self, names: Sequence[str], question: Question | None = None) -> None:
        """`names` of the classes, by index."""
        self.question, self.names = question or Question("several-labels"), names
        self.numbers = len(names)
        self.missing: Any = [math.nan] * len(names)
        self.guessing = len(names) * math.log(2)
        n = (len(names),)
        self.dtype = np.dtype([("labels", bool, n), ("scores", np.float32, n)])
        self.all_scores = False
        cutoffs = self.question.cutoffs or [0.5] * len(names)
        self._cutoffs = torch.tensor(cutoffs, dtype=torch.float64, device="cpu").logit()
        self._names = pa.array(names, pa.string())

    def by(self, criterion: str, within: Sequence[float] = ()) -> Self:
        """Itself: its criteria differ only in their logits."""
        return self

    def with_scores(self) -> Self:
        """As in `Task`."""
        task = copy.copy(self)
        task.all_scores = True
        return task

    def _margins(self, logits: torch.Tensor) -> torch.Tensor:
        """Distance of each label above its cut-off, as a logit."""
        return logits - self._cutoffs.to(logits, non_blocking=True)

    def measure(self, logits: torch.Tensor) -> torch.Tensor:
        """Probability and decision of each class, and the uncertainty."""
        logits = logits.float()
        has, unsure = (self._margins(logits) >= 0).float(), self.uncertainty(logits)[:, None]
        return torch.cat([logits.sigmoid(), has, unsure], 1).T

    def answers(self, measured: NDArray[np.float32]) -> Answers:
        """As in `Task`."""
        values = np.empty(measured.shape[1], self.dtype)
        values["scores"], values["labels"] = (
            measured[: self.numbers].T,
            measured[self.numbers : -1].T,
        )
        return Answers(values, measured[-1])

    def uncertainty(self, logits: torch.Tensor) -> torch.Tensor:
        """The entropy of the least sure decision, divided by log 2."""
        least = self._margins(logits.float()).abs().amin(-1)
        p = least.sigmoid()
        entropy = torch.special.entr(p) + torch.special.entr(1 - p)
        unsure: torch.Tensor = (entropy / math.log(2)).clamp(0.0, 1.0)
        return unsure

    def soften(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Moved towards the cut-offs."""
        return self._margins(logits) / temperature + self._cutoffs.to(logits, non_blocking=True)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross entropy, summed over classes."""
        targets = targets.to(logits).expand_as(logits)
        each = functional.binary_cross_entropy_with_logits(
            logits, targets.nan_to_num(), reduction="none"
        )
        return torch.where(self.given(targets), each.sum(-1), 0.0)

    def given(self, targets: torch.Tensor) -> torch.Tensor:
        """Targets that are numbers."""
        return ~targets.isnan().any(-1)

    def distil(
        self, student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """KL(teacher || student) of each decision, softened by the temperature T, summed and
        multiplied by T^2, as `SingleLabel` for its one decision."""
        wanted = (teacher / temperature).expand_as(student)
        cross, own = (
            functional.binary_cross_entropy_with_logits(z, wanted.sigmoid(), reduction="none")
            for z in (student / temperature, wanted)
        )
        return (cross - own).sum(-1) * temperature**2

    def surprise(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Cross entropy of the teacher's decisions."""
        wanted = (self._margins(teacher) >= 0).to(student).expand_as(student)
        each = functional.binary_cross_entropy_with_logits(
            self._margins(student), wanted, reduction="none"
        )
        return each.sum(-1)

    def certainty(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean over classes of the log probability of the right decision."""
        return -self.loss(logits, targets) / self.numbers

    def differs(self, early: NDArray[Any], deep: NDArray[Any]) -> NDArray[np.bool_]:
        """Any decision differs; an answer that is not a number differs from all."""
        nothing = np.isnan(early["scores"]) | np.isnan(deep["scores"])
        return np.asarray(((early["labels"] != deep["labels"]) | nothing).any(-1))

    def truth(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Known labels as certain answers; from probabilities, those of at least one half."""
        values = np.zeros(len(targets), self.dtype)
        values["labels"], values["scores"] = targets >= 0.5, targets
        return values

    def quality(self, answers: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
        """Share of rows with all labels right; F1 over all decisions, and as a mean over classes
        that occur."""
        given, known = answers["labels"], truth["labels"]
        both, either = (given & known).sum(0), given.sum(0) + known.sum(0)
        f1 = 2 * both[either > 0] / either[either > 0]
        return {
            "accuracy": float(1 - self.differs(answers, truth).mean()),
            "micro_f1": float(2 * both.sum() / max(either.sum(), 1)),
            "macro_f1": float(f1.mean()) if len(f1) else 0.0,
        }

    def constant(self, answers: NDArray[Any]) -> tuple[str, float]:
        """The most frequent set of labels, and its share of the rows."""
        kinds, rows = np.unique(answers["labels"], axis=0, return_counts=True)
        best = int(rows.argmax())
        names = [name for name, has in zip(self.names, kinds[best], strict=True) if has]
        return ", ".join(names) or _NONE, float(rows[best] / len(answers))

    def prior(self, targets: torch.Tensor) -> torch.Tensor:
        """Log odds of each label's share of rows, with one more row with it and one without: most
        labels are rare, which would otherwise take long to learn."""
        known = targets[self.given(targets)]
        return ((known.sum(0) + 1) / (len(known) + 2)).logit()

    def count(self, answers: NDArray[Any]) -> Counter[str]:
        """Rows by label; a row counts once for every label that it has."""
        labels = answers["labels"]
        rows = zip(self.names, labels.sum(0).tolist(), strict=True)
        counts = Counter({name: n for name, n in rows if n})
        if none := int((~labels.any(1)).sum()):
            counts[_NONE] += none
        return counts

    def write(self, answers: NDArray[Any], given: NDArray[np.bool_]) -> dict[str, pa.Array]:
        """Names, the likeliest first, and their scores."""
        order = np.argsort(-answers["scores"], axis=1, kind="stable")
        has = np.take_along_axis(answers["labels"], order, 1) & given[:, None]
        offsets = np.concatenate([[0], np.cumsum(has.sum(1))]).astype(np.int32)
        scores = np.take_along_axis(answers["scores"], order, 1)[has]

        def lists(values: pa.Array) -> pa.Array:
            return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~given))

        columns = {
            "labels": lists(self._names.take(pa.array(order[has]))),
            "label_scores": lists(pa.array(scores, pa.float32())),
        }
        if self.all_scores:
            columns["scores"] = listed(answers["scores"], given)
        return columns
