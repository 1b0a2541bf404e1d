"""A score: one number, by least squares, and its expected error.

Heads give two numbers, in units of the question's scale: how far the score lies above its centre,
and the logarithm of the distance from full depth's score that the exit expects.

Letters: n rows.
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

from fastbert.exits.question import Question
from fastbert.exits.rules import Answers

#: The last exit's second number: a constant, because errors are relative to it.
_NOT_OFF = -30.0
#: Bound of the second number in training: beyond it, a row would have too much weight.
_LEAST, _MOST = -5.0, 5.0


class Score:
    """A `Task`: each row has a number. Targets are numbers, NaN if missing.

    The criterion defines which scores count as equal: with "tolerance" those that differ by at most
    that, with "cutoff" those on the same side of every cut-off (a score at a cut-off is above it);
    with "spread", without a promise, only identical ones.
    """

    def __init__(self, names: Sequence[str], question: Question | None = None) -> None:
        """`names` has the name of the score."""
        self.question, self.names = question or Question("score"), names
        self.numbers = 2
        self.missing: Any = math.nan
        self.guessing = 1.0
        self.dtype = np.dtype([("value", np.float32)])
        self.criterion, self.within = "spread", np.empty(0)

    def by(self, criterion: str, within: Sequence[float] = ()) -> Self:
        """As in `Task`; `within`: the tolerance, or the cut-offs."""
        task = copy.copy(self)
        task.criterion, task.within = criterion, np.sort(np.asarray(within, np.float64))
        return task

    def with_scores(self) -> Self:
        """Itself: there are no classes."""
        return self

    def measure(self, logits: torch.Tensor) -> torch.Tensor:
        """The score, and the probability that it differs from full depth's."""
        logits = logits.float()
        return torch.stack([self.shown(logits)[:, 0], self.uncertainty(logits)])

    def answers(self, measured: NDArray[np.float32]) -> Answers:
        """As in `Task`."""
        values = np.empty(measured.shape[1], self.dtype)
        values["value"] = measured[0]
        return Answers(values, measured[1])

    def uncertainty(self, logits: torch.Tensor) -> torch.Tensor:
        """The probability that full depth's score differs, if it is normally distributed around the
        exit's with the expected error s; for cut-offs, twice that for the nearest one, where it is
        at most one half. "spread": s / (1 + s)."""
        value = self.shown(logits.float())[..., 0]
        spread = self.question.scale * logits[..., 1].float().exp()
        if self.criterion == "tolerance":
            unsure = torch.special.erfc(float(self.within[0]) / (spread * math.sqrt(2)))
        elif self.criterion == "cutoff":
            cutoffs = torch.from_numpy(self.within).to(value, non_blocking=True)
            far = (value[..., None] - cutoffs).abs().amin(-1)
            unsure = torch.special.erfc(far / (spread * math.sqrt(2)))
        else:
            unsure = spread / (1 + spread)
        found: torch.Tensor = unsure + 0.0 * value  # NaN if the score is NaN
        return found

    def soften(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """The expected error, multiplied by the temperature."""
        softer = logits.clone()
        softer[..., 1] += math.log(temperature)
        return softer

    def _standard(self, targets: torch.Tensor) -> torch.Tensor:
        return (targets - self.question.centre) / self.question.scale

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The squared distance, in units of the scale."""
        squared = (logits[..., 0] - self._standard(targets).nan_to_num().to(logits)) ** 2
        return torch.where(self.given(targets), squared, 0.0)

    def given(self, targets: torch.Tensor) -> torch.Tensor:
        """Targets that are numbers."""
        return ~targets.isnan()

    def distil(
        self, student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """The squared distance of the scores, and the negative log likelihood of that distance
        under the student's expected error: of a normal distribution, without gradient for the score
        (so that rows with large errors do not count less; compare Seitzer et al. 2022). Scores have
        no temperature."""
        squared = (student[..., 0] - teacher[..., 0]) ** 2
        spread = student[..., 1].clamp(_LEAST, _MOST)
        return squared + _unlikely(squared.detach(), spread)

    def surprise(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Negative log likelihood of the teacher's score, under a normal distribution around the
        student's."""
        return _unlikely((student[..., 0] - teacher[..., 0]) ** 2, student[..., 1])

    def certainty(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Minus the squared distance."""
        return -self.loss(logits, targets)

    def differs(self, early: NDArray[Any], deep: NDArray[Any]) -> NDArray[np.bool_]:
        """Different by the criterion; an answer that is not a number differs from all."""
        a, b = early["value"].astype(np.float64), deep["value"].astype(np.float64)
        if self.criterion == "tolerance":
            return np.asarray(~(np.abs(a - b) <= self.within[0]))
        if self.criterion == "cutoff":
            sides = [np.searchsorted(self.within, each, side="right") for each in (a, b)]
            return np.asarray((sides[0] != sides[1]) | np.isnan(a) | np.isnan(b))
        return np.asarray(~(a == b))

    def truth(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Unchanged."""
        values = np.empty(len(targets), self.dtype)
        values["value"] = targets
        return values

    def quality(self, answers: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
        """Explained share of the variance (R squared) and mean absolute distance; with cut-offs,
        the share of rows on the right side of all. NaN counts as the mean."""
        known = truth["value"].astype(float)
        given = np.where(np.isfinite(answers["value"]), answers["value"], known.mean())
        off = given.astype(float) - known
        total = float(((known - known.mean()) ** 2).sum())
        found = {
            "r2": 1 - float((off**2).sum()) / total if total else 0.0,
            "mean_absolute_error": float(np.abs(off).mean()),
        }
        if self.criterion == "cutoff":
            found["right_side"] = float(1 - self.differs(answers, truth).mean())
        return found

    def constant(self, answers: NDArray[Any]) -> tuple[str, float]:
        """The mean, with an explained variance of 0."""
        return f"{answers['value'].mean():.4g}", 0.0

    def prior(self, targets: torch.Tensor) -> torch.Tensor:
        """The mean."""
        mean = self._standard(targets[self.given(targets)].mean()).float()
        return torch.stack([mean, mean.new_tensor(_NOT_OFF)])

    def count(self, answers: NDArray[Any]) -> Counter[str]:
        """Rows between two cut-offs, or between two multiples of a power of ten."""
        values = answers["value"].astype(np.float64)
        if self.criterion == "cutoff":
            edges = [f"{edge:g}" for edge in self.within]
            between = zip(edges, edges[1:], strict=False)
            names = [f"below {edges[0]}", *(f"{a} to {b}" for a, b in between), f"from {edges[-1]}"]
            rows = np.bincount(np.searchsorted(self.within, values, side="right"))
            return Counter({name: n for name, n in zip(names, rows.tolist(), strict=False) if n})
        step = 10.0 ** math.floor(math.log10(self.question.scale))
        lows, rows = np.unique(np.floor(values / step), return_counts=True)
        name = lambda low: f"{low * step:g} to {(low + 1) * step:g}"  # noqa: E731
        return Counter(dict(zip(map(name, lows.tolist()), rows.tolist(), strict=True)))

    def write(self, answers: NDArray[Any], given: NDArray[np.bool_]) -> dict[str, pa.Array]:
        """The numbers."""
        return {"value": pa.array(answers["value"], mask=~given)}

    def shown(self, logits: torch.Tensor) -> torch.Tensor:
        """The score, (..., 1)."""
        shown: torch.Tensor = self.question.centre + self.question.scale * logits[..., :1]
        return shown

    @torch.no_grad()
    def take_over(
        self, weight: torch.Tensor, bias: torch.Tensor, theirs: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Copies the map of the score, in the question's units; the second output is constant."""
        centre, scale = self.question.centre, self.question.scale
        self.settle(weight, bias)
        weight[0] = theirs[0][0] / scale
        bias[0] = (theirs[1][0] - centre) / scale

    @torch.no_grad()
    def settle(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Makes the second number a constant, which training on scores does not change."""
        weight[1] = 0.0
        bias[1] = _NOT_OFF


def _unlikely(squared: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood of a squared distance, up to a constant, given the logarithm of the
    standard deviation (...,)."""
    return spread + 0.5 * squared * (-2 * spread).exp()
