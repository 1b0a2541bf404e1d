"""What an operating point is to reach, and the point that a sample proves to reach it.

Letters: n rows, E exits.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastbert.calibration.evaluation import ExitOutputs
from fastbert.calibration.promises import Sample, Shape, keep_promise, reach_speedup, rows_needed
from fastbert.checkpoint import store_operating_point
from fastbert.errors import InputError, check_options
from fastbert.exits.criteria import CRITERIA, DEFAULT_CRITERION
from fastbert.exits.operating_point import Harm, OperatingPoint, Promise
from fastbert.filesystem import shown
from fastbert.inference.cost import CostModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One of the first three, and how it is to be proven.

    Raises InputError for none or several of them, and for shares outside of (0, 1).
    """

    max_disagreement: float | None = None  # share of rows whose answer may not be full depth's
    max_accuracy_loss: float | None = None  # of rows that are wrong where full depth is right
    speedup: float | None = None  # times fewer FLOPs than full depth; no promise
    confidence: float = 0.95  # of the promise, or of the bound on what a speed-up costs
    promise_rows: int | None = None  # that the promise is about; None: all that could ever come
    criterion: str = DEFAULT_CRITERION  # "auto" takes the fastest of `CRITERIA`
    shape: Shape | Literal["auto"] = "uniform"
    name: str | None = None  # of the point; None: what is asked for, in short
    seed: int = 0  # of dividing the rows into those that choose and those that prove

    def __post_init__(self) -> None:
        if len(self._asked()) != 1:
            raise InputError(
                "pass one of --max-disagreement, --max-accuracy-loss and --speedup; they say what "
                "the point is for"
            )
        shares = ("max_disagreement", "max_accuracy_loss", "confidence")
        a_share = "a share, more than 0 and less than 1: 0.01 is 1 %"
        check_options(self, shares, a_share, lambda value: 0 < value < 1)
        check_options(self, ("speedup", "promise_rows"), "more than 0", lambda value: value > 0)
        if self.speedup is not None and "auto" in (self.criterion, self.shape):
            raise InputError("--speedup wants a --criterion, and --shape uniform")

    @property
    def title(self) -> str:
        """The point's name."""
        ((asked, value),) = self._asked().items()
        return self.name or f"{asked}-{value:g}"

    @property
    def promise(self) -> Promise | None:
        """What is to be kept; None for a speed-up."""
        harm: Harm = "disagreement" if self.max_accuracy_loss is None else "accuracy-loss"
        share = self.max_disagreement or self.max_accuracy_loss
        return Promise(share, self.confidence, self.promise_rows, harm) if share else None

    def _asked(self) -> dict[str, float]:
        values = {
            "max-disagreement": self.max_disagreement,
            "max-accuracy-loss": self.max_accuracy_loss,
            "speedup": self.speedup,
        }
        return {name: value for name, value in values.items() if value is not None}


def proven_point(
    goal: Goal,
    outputs: ExitOutputs,
    truth: NDArray[np.integer] | None,
    cost: CostModel,
    corpus: Iterable[str],
    precision: str,
) -> OperatingPoint:
    """The fastest point that reaches the goal, with its evidence; InputError if there is none.

    `truth` (n,) are the task's targets, which only `max_accuracy_loss` needs. The URLs of the
    `corpus` and the `precision` that the outputs come from become part of the evidence.
    """
    sample = Sample(outputs, harmed(outputs, truth), cost, ", ".join(map(shown, corpus)), precision)
    promise = goal.promise
    point: OperatingPoint | None
    if promise is None:
        assert goal.speedup is not None
        point = reach_speedup(sample, goal.speedup, goal.confidence, goal.criterion)
        if point is None:
            raise InputError(
                f"--speedup is {goal.speedup:g}, more than leaving at the first exit brings; "
                "expected less: without an exit before the first layer, that is "
                f"{cost.encoder.depth} at most"
            )
        return replace(point, name=goal.title)
    criteria = tuple(CRITERIA) if goal.criterion == "auto" else (goal.criterion,)
    shapes: tuple[Shape, ...] = ("uniform", "per-layer") if goal.shape == "auto" else (goal.shape,)
    point = keep_promise(sample, promise, criteria, shapes, goal.seed)
    if point is None:
        raise InputError(
            f"{len(outputs.lengths)} rows with a text are too few to prove a {promise.harm} of at "
            f"most {promise.share:g} with confidence {promise.confidence:g}: that takes at least "
            f"{rows_needed(promise)} of which none fails, and many times that to get fast; raise "
            "--rows, pass a larger --corpus, or ask for less"
        )
    evidence = point.evidence
    assert evidence is not None
    if evidence.flops_speedup <= 1:
        raise InputError(
            f"nothing faster than full depth is proven to keep a {promise.harm} of at most "
            f"{promise.share:g} on {evidence.rows} rows; allow more, or pass more rows with --rows"
        )
    return replace(point, name=goal.title)


def harmed(outputs: ExitOutputs, truth: NDArray[np.integer] | None) -> NDArray[np.bool_]:
    """Where a row's answer would do harm, bool (E, n): it is not full depth's, or, if the `truth`
    (n,) is known, it is wrong and full depth's is right."""
    if truth is None:
        return outputs.differs(outputs.answers[-1])
    wrong = outputs.differs(outputs.task.truth(truth))
    fails: NDArray[np.bool_] = wrong & ~wrong[-1]
    return fails


def store_point(point: OperatingPoint, url: str) -> None:
    """Make it the default point of the checkpoint at `url`, and say what it brings and risks."""
    store_operating_point(url, point.name, point.settings())
    evidence, promise = point.evidence, point.promise
    assert evidence is not None
    loses = promise is not None and promise.harm == "accuracy-loss"
    log.info(
        f"'{point.name}': {evidence.flops_speedup:.2f}x in FLOPs; {evidence.broken} of "
        f"{evidence.rows} rows "
        f"{'lose the right label' if loses else 'get another label than at full depth'}, with this "
        f"or a slower setting, so that at most {evidence.bound:.3%} of all do"
        + (f" with confidence {promise.confidence:g}" if promise else "")
    )
