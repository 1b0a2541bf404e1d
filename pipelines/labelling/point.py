"""Choice of a run's operating point.

The first that exists: the requested one, that of the output's last run, the checkpoint's default
one. So a new default, as made by `fastbert calibrate`, does not affect existing outputs.
"""

import logging
from typing import Any

from fastbert.exits.exit import PAPER_EXITS
from fastbert.exits.operating_point import Configuration, OperatingPoint
from pipelines.settings import LabelSettings

log = logging.getLogger(__name__)


def asked_point(settings: LabelSettings, config: Configuration) -> OperatingPoint | None:
    """The requested point; None if the output decides. Raises InputError if it does not exist."""
    asked = settings.speed is not None or settings.operating_point is not None
    if not asked and settings.change == "refuse" and config.operating_points:
        return None
    exits = settings.exits or PAPER_EXITS
    return OperatingPoint.asked(config, settings.speed, settings.operating_point, exits)


def point_of_output(config: Configuration, last: dict[str, Any] | None) -> OperatingPoint:
    """The point in the recipe of the output's last commit, made with this checkpoint; the default
    one for an output without commits (None), or if the checkpoint no longer has that point. Logs a
    default that is not taken. Raises InputError without a default."""
    found = last and OperatingPoint.with_thresholds(config, last)
    if not found:
        return OperatingPoint.of_checkpoint(config, None)
    if (default := config.default_operating_point) not in (None, found.name):
        log.info(
            "continuing with '%s', the operating point of the output's last run; the checkpoint's "
            "default is now '%s': --on-change new takes it for new and changed shards, --relabel "
            "for all",
            *(found.name, default),
        )
    return found


def check_precision(point: OperatingPoint, precision: str) -> None:
    """Warn if the promise was proven in another precision than the run's."""
    if point.promise and point.evidence and point.evidence.precision != precision:
        log.warning(
            "'%s' was calibrated in %s, this run labels in %s, for which nothing is proven; "
            "calibrate with --precision %s, or watch the audits (--audit-rate)",
            *(point.name, point.evidence.precision, precision, precision),
        )
