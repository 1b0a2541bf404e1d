"""Which operating point a run labels at.

What is asked for; else, where the output goes on, that of its last run; else the checkpoint's
default one. So a new default, as `fastbert calibrate` makes it, does not touch what runs.
"""

import logging
from typing import Any

from fastbert.exits.exit import PAPER_EXITS
from fastbert.exits.operating_point import Configuration, OperatingPoint
from pipelines.settings import LabelSettings

log = logging.getLogger(__name__)


def asked_point(settings: LabelSettings, config: Configuration) -> OperatingPoint | None:
    """What is asked for; None where the output has a say. InputError if it cannot be had."""
    asked = settings.speed is not None or settings.operating_point is not None
    if not asked and settings.change == "refuse" and config.operating_points:
        return None
    exits = settings.exits or PAPER_EXITS
    return OperatingPoint.asked(config, settings.speed, settings.operating_point, exits)


def point_of_output(config: Configuration, last: dict[str, Any] | None) -> OperatingPoint:
    """That of the recipe of the output's last commit, made with this checkpoint; the default one
    for an output without (None), and where the checkpoint has no such point any more. Says what
    is not taken. InputError without a default."""
    found = last and OperatingPoint.with_thresholds(config, last)
    if not found:
        return OperatingPoint.of_checkpoint(config, None)
    if (default := config.default_operating_point) not in (None, found.name):
        log.info(
            "going on with '%s', the operating point of the output's last run; the checkpoint's "
            "default is '%s' by now: --on-change new takes it for new and changed shards, "
            "--relabel for all",
            *(found.name, default),
        )
    return found


def check_precision(point: OperatingPoint, precision: str) -> None:
    """Warn where the promise was proven in another precision than the run's."""
    if point.promise and point.evidence and point.evidence.precision != precision:
        log.warning(
            "'%s' was calibrated in %s, this run labels in %s, for which nothing is proven; "
            "calibrate with --precision %s, or watch what --audit-rate finds",
            *(point.name, point.evidence.precision, precision, precision),
        )
