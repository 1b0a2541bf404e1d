"""How far a run is: a live bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


class Counter:
    """Counts rows towards a total, and says so."""

    def __init__(self, total: int, bar: Progress | None) -> None:
        self.total, self.bar = total, bar
        self.done = 0
        self.started = self.said = time.monotonic()
        self.task = bar.add_task("rows", total=total) if bar else None

    def advance(self, rows: int) -> None:
        """`rows` more are done."""
        self.done += rows
        now = time.monotonic()
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done)
        elif now - self.said > _SECONDS_BETWEEN_LINES or self.done == self.total:
            self.said = now
            rate = self.done / max(now - self.started, 1e-9)
            left = (self.total - self.done) / rate if self.done else 0
            log.info(
                "%d of %d rows (%.0f %%)  %.0f rows/s  %.0f s left",
                self.done,
                self.total,
                100 * self.done / max(self.total, 1),
                rate,
                left,
            )


@contextmanager
def counting(total: int) -> Iterator[Counter]:
    """A counter of `total` rows."""
    if not sys.stderr.isatty():
        yield Counter(total, None)
        return
    columns = (TextColumn("labelling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Counter(total, bar)
