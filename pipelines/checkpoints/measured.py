"""Quality of a model that gives several labels, or a score, on held-out rows.

Letters: n rows, E exits.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastbert.calibration.evaluation import ExitOutputs
from pipelines.input.columns import listed

log = logging.getLogger(__name__)

#: Quantile of the normal distribution at `CONFIDENCE`.
_QUANTILE = 1.645


@dataclass(frozen=True)
class MeasuredVerdict:
    """Quality of a model on n rows, by the measures of its task."""

    rows: int
    measures: list[dict[str, float]]  # by exit
    constant: str  # the best constant answer for the rows
    constant_quality: float  # its quality, by the first measure
    #: By how much the model's loss is below that of the constant answer: a lower bound of the mean
    #: over all rows.
    gain_bound: float
    several: bool  # labels a row
    never: list[str]  # labels of rows that full depth never gives

    @classmethod
    def of(cls, outputs: ExitOutputs, targets: NDArray[Any]) -> "MeasuredVerdict":
        """From the answers of each exit, and the targets of n rows."""
        task, truth = outputs.task, outputs.task.truth(targets)
        known = torch.from_numpy(np.asarray(targets, np.float32))
        constant, quality = task.constant(truth)
        blind = task.prior(known).expand(len(known), -1)
        gains = task.loss(blind, known) - task.loss(torch.from_numpy(outputs.logits[-1]), known)
        gains = gains.nan_to_num(-1e9, -1e9, -1e9).double()
        spread = float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
        given, there = task.count(outputs.answers[-1]), task.count(truth)
        never = sorted(there.keys() - given.keys()) if task.question.kind != "score" else []
        return cls(
            rows=len(targets),
            measures=[task.quality(at, truth) for at in outputs.answers],
            constant=constant,
            constant_quality=quality,
            gain_bound=float(gains.mean()) - _QUANTILE * spread,
            several=task.question.kind == "several-labels",
            never=never,
        )

    @property
    def useful(self) -> bool:
        """Whether it is proven to be better than the frequencies of answers."""
        return self.gain_bound > 0

    @property
    def wrong(self) -> float | None:
        """Share of rows that full depth gets wrong, if defined."""
        accuracy = self.measures[-1].get("accuracy")
        return None if accuracy is None else 1 - accuracy

    def tell(self, depths: Sequence[int]) -> None:
        """Log the results; `depths` are those of the exits."""
        first = next(iter(self.measures[-1]))
        found = ", ".join(f"{_NAMES[k]} {value:.3f}" for k, value in self.measures[-1].items())
        log.info(
            f"full depth on {self.rows:,} held-out rows: {found}; always answering "
            f"{self.constant!r} has {_NAMES[first]} {self.constant_quality:.3f}"
        )
        by_exit = zip(depths, self.measures, strict=True)
        log.info(
            "%s by layer: %s",
            _NAMES[first],
            "  ".join(f"{depth} {each[first]:.3f}" for depth, each in by_exit),
        )
        if self.never:
            log.warning(
                "%d labels of rows are never given: %s; they have few rows, or look like others%s",
                *(len(self.never), listed([repr(name) for name in self.never])),
                "; a lower --cutoff gives them more often" if self.several else "",
            )
        if not self.useful:
            log.warning(
                "DO NOT TRUST THIS MODEL: it is not proven to be better than the frequencies of "
                "answers; exit code 3. Check a few texts and their labels; pass more labelled "
                "rows, or more --epochs"
            )

    def summary(self) -> dict[str, Any]:
        """For the JSON summary."""
        full = {f"dev_{name}": round(value, 4) for name, value in self.measures[-1].items()}
        first = next(iter(self.measures[-1]))
        return {
            "dev_rows": self.rows,
            **full,
            "dev_constant": self.constant,
            f"dev_constant_{first}": round(self.constant_quality, 4),
            f"dev_{first}_by_layer": [round(each[first], 4) for each in self.measures],
        } | ({} if self.useful else {"exit_code": 3})


#: Names of measures in messages.
_NAMES = {
    "accuracy": "right",
    "micro_f1": "F1",
    "macro_f1": "F1 as a mean over labels",
    "r2": "R squared",
    "mean_absolute_error": "mean distance",
    "right_side": "right side of the cut-offs",
}
