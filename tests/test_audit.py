"""Alarms: as seldom false as they say, and there when something is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from fastbert.exits.operating_point import Evidence, OperatingPoint, Promise
from pipelines.labelling.audit import FALSE_ALARM, audit, drift
from pipelines.labelling.point import check_precision

SHARES = np.array([0.7, 0.15, 0.08, 0.04, 0.02, 0.01])


def point(share: float = 0.01, exits=(0, 0, 0)) -> OperatingPoint:
    evidence = Evidence(2000, 10, 0.009, list(exits), 3.0, "corpus", "fp32", "2026-11-25")
    return OperatingPoint("one percent", [0.5, 0.5], "entropy", Promise(share, 0.95), evidence)


@pytest.mark.parametrize(("before", "now"), [(2000, 50_000), (2000, 800), (400, 150)])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_drift_is_seen_as_seldom_as_it_says_where_there_is_none(before, now, level):
    rng = np.random.default_rng(0)
    nights = 4000
    seen = sum(
        drift(rng.multinomial(before, SHARES), rng.multinomial(now, SHARES))[1] < level
        for _ in range(nights)
    )
    spread = (level * (1 - level) / nights) ** 0.5
    assert level - 5 * spread < seen / nights < level + 4 * spread


def test_drift_is_seen_where_there_is_some():
    rng = np.random.default_rng(1)
    other = np.array([0.6, 0.2, 0.1, 0.05, 0.03, 0.02])
    distance, chance = drift(rng.multinomial(2000, SHARES), rng.multinomial(20_000, other))
    assert chance < FALSE_ALARM
    assert distance == pytest.approx(0.1, abs=0.03)


def test_drift_of_odd_counts():
    assert drift([100, 0, 0], [0, 0, 100])[1] < FALSE_ALARM
    assert drift([100, 0, 0], [50, 0, 0]) == (0.0, 1.0)
    assert drift([3, 1], [1, 0])[1] == 1.0  # too few to say


def test_a_broken_promise_raises_the_alarm():
    found = audit(point(), [10_000, 0, 0], audited=1000, agreements=960)
    assert "40 of 1000 audited rows" in found["alarms"][0]
    low, high = found["audit_interval"]
    assert low < 0.96 < high < 0.99
    assert found["promised_agreement"] == 0.99


@pytest.mark.parametrize(("criterion", "alarms"), [("entropy", 1), ("tolerance", 0)])
def test_a_promise_about_another_full_depth_is_not_confirmed(criterion, alarms):
    """Rows that do not have the run's own are broken, too, if answers are equal or not; two that
    are within a tolerance of a third one may be further apart."""
    known = point()
    promise = replace(known.promise, against="fp32")
    asked = replace(known, promise=promise, criterion=criterion)
    found = audit(asked, [10_000, 0, 0], audited=1000, agreements=960)
    assert len(found["alarms"]) == alarms
    assert "promised_agreement" not in found


def test_a_promise_that_is_just_kept_hardly_ever_raises_it():
    rng = np.random.default_rng(2)
    disagreements = rng.binomial(2000, 0.01, 20_000)
    alarms = sum(
        bool(audit(point(), [0, 0, 0], 2000, 2000 - int(d))["alarms"])
        for d in np.unique(disagreements)
        for _ in range((disagreements == d).sum())
    )
    assert 0 < alarms <= FALSE_ALARM * 20_000 + 3 * (FALSE_ALARM * 20_000) ** 0.5


def test_a_promise_proven_in_another_precision(caplog):
    check_precision(point(), "fp32")
    check_precision(OperatingPoint("speed 0.5", [0.5]), "bf16")
    assert not caplog.messages
    check_precision(point(), "bf16")
    assert "calibrated in fp32, this run labels in bf16" in caplog.text


def test_without_promise_or_audit():
    found = audit(OperatingPoint("speed 0.5", [0.5]), [3, 4], audited=0, agreements=0)
    assert found == {"audit_agreement": None, "audit_interval": None, "alarms": []}
    assert audit(point(), [0, 0, 0], 0, 0)["alarms"] == []


def test_the_interval_covers_what_the_night_really_did():
    """A night's audit is a sample of the night's own rows, without replacement."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        rows, wrong = 20_000, int(rng.integers(0, 400))
        seen = int(rng.hypergeometric(wrong, rows - wrong, 1000))
        low, high = audit(point(), [0, 0, 0], 1000, 1000 - seen)["audit_interval"]
        covered += low <= 1 - wrong / rows <= high
    assert covered >= 950


@pytest.mark.parametrize(("moved", "alarms"), [(0.02, 0), (0.06, 1)])
def test_a_drift_must_be_large_and_not_only_certain(moved, alarms):
    """Among a million rows, 2 % are far beyond chance and no news."""
    before, rows = [14_000, 4_000, 2_000], 1_000_000
    now = [int(rows * (0.7 - moved)), int(rows * (0.2 + moved)), int(rows * 0.1)]
    found = audit(point(exits=before), now, audited=0, agreements=0)
    assert found["exit_drift"] == pytest.approx(moved, abs=1e-6)
    assert found["exit_drift_p"] < FALSE_ALARM
    assert len(found["alarms"]) == alarms
    assert not audit(point(exits=before), now, 0, 0, drift_tolerance=0.07)["alarms"]


def test_a_large_drift_of_few_rows_is_chance():
    found = audit(point(exits=[700, 200, 100]), [5, 4, 1], audited=0, agreements=0)
    assert found["exit_drift"] > 0.05
    assert not found["alarms"]
