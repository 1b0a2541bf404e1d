"""Audits: whether the rows of a run contradict the promise of its operating point.

Two alarms, each with a probability of at most `FALSE_ALARM` in a run without faults: audited rows
disagree with full depth more often than promised, or rows leave at other layers than at
calibration. The second needs no audit, and also detects harmless changes of the corpus. With a
million rows any change is significant, so it must also be large.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # imports `stats` on first use, because that takes long

from fastbert.calibration.bounds import interval
from fastbert.exits.operating_point import OperatingPoint
from pipelines.settings import DRIFT_TOLERANCE

FALSE_ALARM = 0.001

#: Confidence of the intervals in summaries.
CONFIDENCE = 0.95

#: Expected rows of a cell at which the chi-squared approximation is close enough.
_EXPECTED = 5.0


def audit(
    point: OperatingPoint,
    exits: Sequence[int],
    audited: int,
    agreements: int,
    drift_tolerance: float = DRIFT_TOLERANCE,
) -> dict[str, Any]:
    """The audit fields of a run's summary.

    `exits` counts the run's rows by layer; `agreements` of the `audited` rows have full depth's
    label. `drift_tolerance` is the share of rows that may leave at other layers.
    """
    found: dict[str, Any] = {
        "audit_agreement": agreements / audited if audited else None,
        "audit_interval": interval(agreements, audited, CONFIDENCE) if audited else None,
    }
    alarms = []
    promise, evidence = point.promise, point.evidence
    # Audits compare with the run's own full depth. Rows that differ from it also break a promise
    # about another full depth, except under a tolerance, by which both may be off.
    against = promise and promise.against
    tolerant = point.criterion == "tolerance"
    if promise and promise.harm == "disagreement" and not (against and tolerant):
        if not against:
            found["promised_agreement"] = 1 - promise.share
        broken = audited - agreements
        if audited and scipy.stats.binom.sf(broken - 1, audited, promise.share) < FALSE_ALARM:
            alarms.append(
                f"{broken} of {audited} audited rows do not have full depth's "
                f"{'score' if point.within else 'label'}, '{point.name}' promises at most "
                f"{promise.share:.2%}; calibrate it again on this corpus"
            )
    if evidence and sum(exits) and sum(evidence.exits):
        found["exit_drift"], found["exit_drift_p"] = drift(evidence.exits, exits)
        if found["exit_drift"] > drift_tolerance and found["exit_drift_p"] < FALSE_ALARM:
            alarms.append(
                f"{found['exit_drift']:.1%} of the rows leave at other layers than when "
                f"'{point.name}' was calibrated: the corpus has changed; look at the rows that "
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
    """`audit` of a run's sums from `totals`, for each question if there are several.

    `agreements` is the number of rows whose answers are all full depth's.
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
    """Distance of two counts by layer, and its probability if nothing has changed.

    The first is the total variation distance of the two distributions. The second is the p-value of
    Pearson's chi-squared test of homogeneity, with successive layers merged until at least 5 rows
    are expected in each.
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
