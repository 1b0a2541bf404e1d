"""What the rows of a run say about the promise they were labelled under.

Two alarms, each with a chance of `FALSE_ALARM` at most to go off in a night on which nothing is
wrong: audited rows disagree with full depth more often than was promised, or rows leave the network
elsewhere than when it was calibrated. The second needs no audit and sees a change of the corpus
that does no harm, too. Among a million rows any change is certain, so it must be large as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # which imports `stats` when it is first used: that takes long

from fastbert.calibration.bounds import interval
from fastbert.exits.operating_point import OperatingPoint
from pipelines.settings import DRIFT_TOLERANCE

FALSE_ALARM = 0.001

#: Confidence of the intervals in summaries.
CONFIDENCE = 0.95

#: Expected rows of a cell from which on the chi-squared test's distribution is close enough.
_EXPECTED = 5.0


def audit(
    point: OperatingPoint,
    exits: Sequence[int],
    audited: int,
    agreements: int,
    drift_tolerance: float = DRIFT_TOLERANCE,
) -> dict[str, Any]:
    """The audit's part of a run's summary.

    `exits` counts the run's rows by layer; of `audited` rows `agreements` have full depth's label.
    `drift_tolerance` is the share of rows that may leave elsewhere.
    """
    found: dict[str, Any] = {
        "audit_agreement": agreements / audited if audited else None,
        "audit_interval": interval(agreements, audited, CONFIDENCE) if audited else None,
    }
    alarms = []
    promise, evidence = point.promise, point.evidence
    # Audits are about the run's own full depth. Rows that do not have its answer are broken under a
    # promise about another one, too, except under a tolerance: both may be off by that.
    against = promise and promise.against
    tolerant = point.criterion == "tolerance"
    if promise and promise.harm == "disagreement" and not (against and tolerant):
        if not against:
            found["promised_agreement"] = 1 - promise.share
        broken = audited - agreements
        if audited and scipy.stats.binom.sf(broken - 1, audited, promise.share) < FALSE_ALARM:
            alarms.append(
                f"{broken} of {audited} audited rows do not have full depth's "
                f"{'score' if point.within else 'label'}, "
                f"'{point.name}' promises at most {promise.share:.2%}; calibrate it again on this "
                "corpus"
            )
    if evidence and sum(exits) and sum(evidence.exits):
        found["exit_drift"], found["exit_drift_p"] = drift(evidence.exits, exits)
        if found["exit_drift"] > drift_tolerance and found["exit_drift_p"] < FALSE_ALARM:
            alarms.append(
                f"{found['exit_drift']:.1%} of the rows leave at other layers than when "
                f"'{point.name}' was calibrated: the corpus is not the one it was; look at what "
                "fastbert report --least-certain shows, and calibrate again if such rows are to "
                "stay"
            )
    return found | {"alarms": alarms}


def audits(
    point: OperatingPoint,
    sums: Mapping[str, Any],
    agreements: int,
    drift_tolerance: float = DRIFT_TOLERANCE,
) -> dict[str, Any]:
    """`audit` of a run's sums, as `totals` has them; of several questions, of each of them.

    Of so many `agreements` rows all answers are full depth's.
    """
    audited = sums["audit_rows"]
    if point.questions is None:
        return audit(point, sums["exits"], audited, agreements, drift_tolerance)
    each = []
    for name, own in point.questions.items():
        exits = [at.get(name, 0) for at in sums["answers"]]
        agreed = sum(at.get(name, 0) for at in sums["agreements"])
        each.append({"question": name} | audit(own, exits, audited, agreed, drift_tolerance))
    alarms = [
        f"question '{found['question']}': {alarm}" for found in each for alarm in found["alarms"]
    ]
    kept = [{key: value for key, value in found.items() if key != "alarms"} for found in each]
    whole = audit(OperatingPoint(point.name, []), sums["exits"], audited, agreements)
    return whole | {"question_audits": kept, "alarms": alarms}


def drift(before: Sequence[int], now: Sequence[int]) -> tuple[float, float]:
    """How far two counts by layer lie apart, and how likely so far if nothing has changed.

    The first is the total variation distance of the two distributions. The second is the p-value
    of Pearson's chi-squared test of homogeneity, neighbouring layers taken together until at least
    5 rows are expected of each.
    """
    counts = np.array([before, now], float)  # (2, L)
    shares = counts / counts.sum(1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    least = counts.sum(0) * (counts.sum(1).min() / counts.sum())  # expected in the smaller sample
    cells: list[np.ndarray[Any, Any]] = []
    waiting, expected = np.zeros(2), 0.0
    for column, more in zip(counts.T, least, strict=True):
        waiting, expected = waiting + column, expected + more
        if expected >= _EXPECTED:
            cells.append(waiting)
            waiting, expected = np.zeros(2), 0.0
    if len(cells) < 2:
        return distance, 1.0
    cells[-1] += waiting
    found = scipy.stats.chi2_contingency(np.array(cells).T, correction=False)
    return distance, float(found.pvalue)
