"""Accuracy of a model that gives one label, on held-out rows."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbert.calibration.bounds import upper_bound
from fastbert.calibration.evaluation import ExitOutputs
from pipelines.input.columns import listed

log = logging.getLogger(__name__)

CONFIDENCE = 0.95
#: Most pairs of classes to list; and the difference between the means over classes and over rows
#: above which both are logged.
_CONFUSED, _UNLIKE = 3, 0.05


@dataclass(frozen=True)
class Verdict:
    """How often a model is right, on n rows."""

    rows: int
    by_exit: list[float]  # share of rows
    bound: float  # lower, on full depth's share of all rows
    majority: float  # share of the most frequent class
    frequent: str  # the most frequent class
    by_class: dict[str, float]  # full depth's share of each class that has rows
    confused: list[
        tuple[str, str, int]
    ]  # class, the other class given by full depth, rows; most first

    @classmethod
    def of(cls, outputs: ExitOutputs, truth: NDArray[np.int64], names: Sequence[str]) -> "Verdict":
        """From the answers of each exit, and the class indices (n,)."""
        right = ~outputs.differs(outputs.task.truth(truth))  # (E, n)
        counts = np.bincount(truth, minlength=len(names))
        there = counts > 0
        shares = np.bincount(truth, right[-1], len(names))[there] / counts[there]
        wrong = zip(truth[~right[-1]], outputs.answers["label"][-1][~right[-1]], strict=True)
        pairs = Counter((names[is_], names[given] if given >= 0 else "") for is_, given in wrong)
        return cls(
            rows=len(truth),
            by_exit=right.mean(1).tolist(),
            bound=1 - upper_bound(int((~right[-1]).sum()), len(truth), CONFIDENCE),
            majority=float(counts.max() / len(truth)),
            frequent=names[int(counts.argmax())],
            by_class=dict(zip(np.array(names)[there].tolist(), shares.tolist(), strict=True)),
            confused=[(*pair, rows) for pair, rows in pairs.most_common(_CONFUSED)],
        )

    @property
    def balanced(self) -> float:
        """Full depth's share of right answers, as a mean over classes."""
        return float(np.mean([*self.by_class.values()]))

    @property
    def accuracy(self) -> float:
        """Share of rows that full depth gets right."""
        return self.by_exit[-1]

    @property
    def wrong(self) -> float:
        """Share of rows that full depth gets wrong."""
        return 1 - self.accuracy

    @property
    def useful(self) -> bool:
        """Whether it is proven to be better than its most frequent class for every row."""
        return self.bound > self.majority

    def tell(self, depths: Sequence[int]) -> None:
        """Log the results; `depths` are those of the exits."""
        unlike = self.majority > 0.5 or abs(self.accuracy - self.balanced) > _UNLIKE
        lopsided = f" ({self.balanced:.1%} as a mean over classes)" if unlike else ""
        log.info(
            f"full depth is right in {self.accuracy:.1%} of {self.rows:,} held-out rows{lopsided}, "
            f"so with {CONFIDENCE:.0%} confidence in at least {self.bound:.1%} of all; always "
            f"answering {self.frequent!r}, the most frequent class, would be right in "
            f"{self.majority:.1%}"
        )
        shares = zip(depths, self.by_exit, strict=True)
        log.info("right by layer: %s", "  ".join(f"{k} {share:.1%}" for k, share in shares))
        if self.confused:
            log.info(
                "most frequent mistakes: %s",
                ", ".join(
                    f"{is_!r} answered as {given!r} ({n})" for is_, given, n in self.confused
                ),
            )
        if never := [repr(name) for name, share in self.by_class.items() if not share]:
            log.warning(
                "of %d classes %d are never answered correctly: %s; they have few rows, or look "
                "like others",
                *(len(self.by_class), len(never), listed(never)),
            )
        if not self.useful:
            log.warning(
                "DO NOT TRUST THIS MODEL: it is not proven to be better than always answering "
                f"{self.frequent!r}; exit code 3. Check the classes and a few texts of each; pass "
                "more labelled rows, or more --epochs"
            )

    def summary(self) -> dict[str, Any]:
        """For the JSON summary."""
        return {
            "dev_rows": self.rows,
            "dev_accuracy": round(self.accuracy, 4),
            "dev_accuracy_bound": round(self.bound, 4),
            "dev_balanced_accuracy": round(self.balanced, 4),
            "dev_majority": round(self.majority, 4),
            "dev_accuracy_by_layer": [round(share, 4) for share in self.by_exit],
            "dev_accuracy_by_class": {k: round(share, 4) for k, share in self.by_class.items()},
        } | ({} if self.useful else {"exit_code": 3})
