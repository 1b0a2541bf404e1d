"""Operating points proven by a sample, or the reason why there is none.

Letters: n rows, E exits.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbert.calibration.choosing import paying
from fastbert.calibration.evaluation import ExitOutputs
from fastbert.calibration.promises import (
    Sample,
    divided,
    furthest,
    keep_promise,
    make_path,
    proving,
    reach_speedup,
    rows_needed,
    speedup,
)
from fastbert.checkpoint import store_operating_point
from fastbert.errors import InputError, NotProven
from fastbert.exits.operating_point import Evidence, OperatingPoint, Promise
from fastbert.exits.rules import CRITERIA_OF
from fastbert.filesystem import redacted
from fastbert.inference.cost import CostModel
from fastbert.inference.decisions import exits_used

log = logging.getLogger(__name__)


def sample_of(
    outputs: ExitOutputs,
    truth: NDArray[Any] | None,
    cost: CostModel,
    corpus: Iterable[str],
    precision: str,
    within: Sequence[float] = (),
    heads: float | None = None,
    reference: NDArray[Any] | None = None,
) -> Sample:
    """The sample to choose thresholds on, with the `truth` of n rows if harm depends on it, and
    what scores must be `within`. Raises InputError for a model without early exits. With `heads`,
    their time per FLOP relative to layers, exits that do not pay are left out. `reference`: answers
    (n,) to compare with, by default full depth's."""
    if len(outputs.logits) < 2:
        raise InputError("the checkpoint has no exit except the last: nothing can be calibrated")
    where = ", ".join(map(redacted, corpus))
    return Sample(outputs, cost, truth, where, precision, tuple(within), heads, reference)


def promised_point(
    sample: Sample,
    promise: Promise,
    criterion: str | None = None,
    exits: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> OperatingPoint:
    """The fastest point that keeps a promise; raises InputError if the rows prove none.

    By default the criterion is the first of `CRITERIA_OF`, "auto" takes the fastest of all; `exits`
    (E,) are those that may be used, by default all; `seed` divides the rows into those to choose
    and learn on, and those to prove on.
    """
    known = CRITERIA_OF[sample.outputs.task.question.kind]
    criteria = known if criterion == "auto" else (criterion or known[0],)
    exits = np.ones(len(sample.cost.exits), bool) if exits is None else exits
    if sample.heads is not None and proving(criteria) < 1:
        learners, _ = divided(sample, criteria, seed)
        possible, exits = exits, paying(learners, criteria[0], promise.share, exits)
        left_out = np.flatnonzero(possible & ~exits)
        out = ", ".join(str(sample.cost.exits[exit].depth) for exit in left_out)
        log.info(
            f"heads take {sample.heads:.1f} times as long as their FLOPs; "
            + (f"the exits at depth {out} do not pay, and are left out" if out else "all exits pay")
        )
    point = keep_promise(sample, promise, criteria, exits, seed)
    if point is None:
        share = proving(criteria)
        learning = f" ({1 - share:.0%} of them for learning and choosing)" if share < 1 else ""
        raise NotProven(
            f"{len(sample)} rows with a text are too few to prove a {promise.harm} of at most "
            f"{promise.share:g} with confidence {promise.confidence:g}: that takes at least "
            f"{math.ceil(rows_needed(promise) / share)}{learning} without any failure, and many "
            "times that for a fast point; raise --rows, pass a larger --corpus, or promise less"
        )
    if found(point).flops_speedup <= 1:
        raise NotProven(
            f"nothing faster than full depth is proven to keep a {promise.harm} of at most "
            f"{promise.share:g} on {found(point).rows} rows: {_limit(sample, point, exits)}"
        )
    about = [f"{point.criterion}-{number:g}" for number in sample.within]
    return replace(point, name="-".join([*about, f"max-{promise.harm}-{promise.share:g}"]))


def found(point: OperatingPoint) -> Evidence:
    """The evidence of a new point."""
    assert point.evidence is not None
    return point.evidence


def _limit(sample: Sample, point: OperatingPoint, exits: NDArray[np.bool_]) -> str:
    """What limits the speed of a point with a promise, rows or model, and what would help.

    With infinitely many rows, the share that breaks could be the promised one; with fewer rows it
    must be smaller.
    """
    reached, rows, promise = found(point).flops_speedup, found(point).rows, point.promise
    assert promise is not None
    path = make_path(sample, point.criterion, exits, sample)

    def endless(share: float) -> float:
        return speedup(sample, furthest(sample, path, math.floor(share * len(sample))))

    possible, fastest = endless(promise.share), endless(1.0)
    if reached > 0.98 * fastest:
        return "not limited: all rows may leave at the first exit"
    if possible > 1.1 * max(reached, 1.0):
        return (
            f"limited by the {rows} rows that prove it: with many more such rows, about "
            f"{possible:.1f}x would be proven; pass more texts to fastbert calibrate"
        )
    fails = sample.by(point).fails.mean(1)
    harmed = "  ".join(f"{share:.1%}" for share in fails[:-1])
    if promise.against:
        harmed += f", and full depth in {sample.precision} alone {fails[-1]:.2%},"
    more = [f"{endless(k * promise.share):.1f}x for {k * promise.share:g}" for k in (2, 5)
            if k * promise.share < 1]  # fmt: skip
    return (
        f"limited by the model, not by the {rows} rows that prove it: leaving at each exit alone "
        f"would harm {harmed} of the rows; allow more ({', '.join(more)}), or train the exits "
        "longer, with --distil-epochs"
    )


def faster_point(
    sample: Sample,
    wanted: float,
    confidence: float,
    criterion: str | None = None,
    exits: NDArray[np.bool_] | None = None,
) -> OperatingPoint:
    """The slowest point that takes `wanted` times fewer FLOPs than full depth, without a promise;
    raises InputError if there is none. `confidence` is that of the bound on changed labels."""
    exits = np.ones(len(sample.cost.exits), bool) if exits is None else exits
    criterion = criterion or CRITERIA_OF[sample.outputs.task.question.kind][0]
    point = reach_speedup(sample, wanted, confidence, criterion, exits)
    if point is None:
        raise InputError(
            f"--speedup is {wanted:g}, more than leaving at the first exit reaches; expected less: "
            f"without an exit before the first layer, at most {sample.cost.encoder.depth}"
        )
    return replace(point, name=f"speedup-{wanted:g}")


def _changed(point: OperatingPoint) -> str:
    """The words for rows that break a promise about full depth's answers."""
    against = f" in {point.promise.against}" if point.promise and point.promise.against else ""
    if point.criterion == "tolerance" and point.within:
        return f"get a score more than {point.within[0]:g} from full depth's{against}"
    if point.criterion == "cutoff" and point.within:
        sides = ", ".join(f"{each:g}" for each in point.within)
        return f"fall on another side of {sides} than at full depth{against}"
    return f"get another label than at full depth{against}"


def store_point(
    point: OperatingPoint, url: str, default: bool = True
) -> tuple[OperatingPoint, str | None]:
    """Store the point as `store_operating_point`. Returns the point, with its stored name, and the
    name of the previous default."""
    name, before = store_operating_point(url, point.name, point.settings(), default)
    if name != point.name:
        log.info("'%s' is the name of another point; this one is stored as '%s'", point.name, name)
    if not default:
        log.info("the default stays %s", f"'{before}'" if before else "none")
    elif before not in (None, name):
        log.info(
            "'%s' is now the default, in place of '%s', which the checkpoint keeps: outputs "
            "labelled at that one continue with it",
            *(name, before),
        )
    return replace(point, name=name), before


def tell_points(
    point: OperatingPoint, samples: Sequence[Sample], wrong: Sequence[float | None]
) -> None:
    """Log speed and risk of a point for each question, on the `samples` of the same rows that prove
    it; also the shares of rows that full depth gets `wrong`, if known."""
    for each, sample, share in zip(point.each(), samples, wrong, strict=True):
        _tell(each, sample, share)
    if point.questions is None:
        return
    rules = point.rules()
    pairs = zip(samples, rules, strict=True)
    exits = np.max([sample.outputs.exits(rule) for sample, rule in pairs], axis=0)
    cost, lengths = samples[0].cost.using(exits_used(rules)), samples[0].outputs.lengths
    log.info(
        f"'{point.name}': {cost.speedup(lengths, exits):.2f} times fewer FLOPs for its "
        f"{len(rules)} questions together; a row leaves where it gets its last answer"
    )


def _tell(point: OperatingPoint, sample: Sample, wrong: float | None) -> None:
    evidence, promise = found(point), point.promise
    loses = promise is not None and promise.harm == "accuracy-loss"
    log.info(
        f"'{point.name}': {evidence.flops_speedup:.2f} times fewer FLOPs; at most "
        f"{evidence.broken} of {evidence.rows:,} rows "
        f"{'lose the right label' if loses else _changed(point)}, so "
        + (f"with {100 * promise.confidence:g}% confidence " if promise else "")
        + f"at most {evidence.bound:.2%} of all do"
        + (f"; full depth itself is wrong in {wrong:.1%} of them" if wrong is not None else "")
    )
    if promise:
        log.info("%s", _limit(sample, point, np.append(np.array(point.thresholds) > 0, True)))


def together(points: Mapping[str, OperatingPoint], name: str) -> OperatingPoint:
    """One point with a name, from the points of each question by name, or of the only question."""
    if [*points] == [""]:
        return replace(points[""], name=name)
    each = {question: replace(point, name=question) for question, point in points.items()}
    return OperatingPoint.of_questions(name, each)
