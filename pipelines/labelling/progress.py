"""How far a run is: a live bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.labelling.work import Failed, Outcome

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


class Counter:
    """Counts rows towards a total, and says so."""

    def __init__(self, total: int, bar: Progress | None, price_per_hour: float | None) -> None:
        self.total, self.bar, self.price_per_hour = total, bar, price_per_hour
        self.done = self.labelled = self.layers = 0
        self.device_seconds = 0.0
        self.started = self.said = time.monotonic()
        self.task = bar.add_task("", total=total, state=self.state()) if bar else None

    def add(self, outcome: Outcome) -> None:
        """A slice has come to its end."""
        if isinstance(outcome, Failed):
            return self.advance(outcome.slice.rows)
        self.labelled += sum(outcome.exits)
        self.layers += sum(k * n for k, n in zip(outcome.depths, outcome.exits, strict=True))
        self.device_seconds += outcome.device_seconds
        self.advance(outcome.rows)

    def advance(self, rows: int) -> None:
        """`rows` more are done."""
        self.done += rows
        now = time.monotonic()
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done, state=self.state())
        elif now - self.said > _SECONDS_BETWEEN_LINES or self.done == self.total:
            self.said = now
            percent = 100 * self.done / max(self.total, 1)
            left = (now - self.started) * (self.total - self.done) / self.done if self.done else 0
            log.info(
                "%d of %d rows (%.0f %%)  %s  %.0f s left",
                *(self.done, self.total, percent, self.state(), left),
            )

    def state(self) -> str:
        """Speed, depth and, if the price of an hour is known, what has been spent."""
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        parts = [f"{rate:,.0f} rows/s"]
        if self.labelled:
            parts.append(f"layer {self.layers / self.labelled:.2f}")
        if self.price_per_hour is not None:
            parts.append(f"cost {self.device_seconds / 3600 * self.price_per_hour:.4g}")
        return "  ".join(parts)


@contextmanager
def counting(total: int, price_per_hour: float | None = None) -> Iterator[Counter]:
    """A counter of `total` rows."""
    bar = Progress(
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows  {task.fields[state]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar if sys.stderr.isatty() else nullcontext() as live:
        yield Counter(total, live, price_per_hour)
