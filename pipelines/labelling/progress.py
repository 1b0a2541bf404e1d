"""Progress of a run: a live bar on a terminal, otherwise a line every few seconds."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.labelling.work import Failed, Outcome

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES, _SECONDS_BETWEEN_LOOKS = 10.0, 1.0


class Counter:
    """Counts rows towards a total, and reports them."""

    def __init__(self, total: int, bar: Progress | None, price_per_hour: float | None) -> None:
        self.total, self.bar, self.price_per_hour = total, bar, price_per_hour
        self.done = self.labelled = self.layers = 0
        self.device_seconds = 0.0
        #: Rows that are done, including those of slices in progress. It never decreases.
        self.seen = 0.0
        self.ended = False
        self.started = self.said = time.monotonic()
        self.task = bar.add_task("", total=total, state=self.state()) if bar else None

    def add(self, outcome: Outcome) -> None:
        """Count a finished slice."""
        if isinstance(outcome, Failed):
            return self.advance(outcome.slice.rows)
        self.labelled += sum(outcome.exits)
        self.layers += sum(k * n for k, n in zip(outcome.depths, outcome.exits, strict=True))
        self.device_seconds += outcome.device_seconds
        self.advance(outcome.rows)

    def advance(self, rows: int) -> None:
        """Count `rows` more."""
        self.done += rows
        self.look()

    def look(self, under_way: float = 0.0) -> None:
        """Report progress, if it is time; `under_way` are rows done of slices in progress."""
        self.seen = max(self.seen, min(self.done + under_way, self.total))
        now = time.monotonic()
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.seen, state=self.state())
        elif now - self.said > _SECONDS_BETWEEN_LINES or (
            self.done == self.total and not self.ended
        ):
            self.said, self.ended = now, self.done == self.total
            percent = 100 * self.seen / max(self.total, 1)
            parts = [f"{self.seen:.0f} of {self.total} rows ({percent:.0f} %)", self.state()]
            if self.seen:
                left = (now - self.started) * (self.total - self.seen) / self.seen
                parts.append(f"{left:.0f} s left")
            log.info("%s", "  ".join(parts))

    def state(self) -> str:
        """Speed, depth and, if the price of an hour is known, the cost so far."""
        rate = self.seen / max(time.monotonic() - self.started, 1e-9)
        parts = [f"{rate:,.0f} rows/s"]
        if self.labelled:
            parts.append(f"layer {self.layers / self.labelled:.2f}")
        if self.price_per_hour is not None:
            parts.append(f"cost {self.device_seconds / 3600 * self.price_per_hour:.4g}")
        return "  ".join(parts)


@contextmanager
def counting(
    total: int,
    price_per_hour: float | None = None,
    under_way: Callable[[], float] = lambda: 0.0,
) -> Iterator[Counter]:
    """A counter of `total` rows, which also reports while no slice finishes; `under_way` returns
    the rows done of slices in progress."""
    bar = Progress(
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows  {task.fields[state]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar if sys.stderr.isatty() else nullcontext() as live:
        counter, ended = Counter(total, live, price_per_hour), threading.Event()

        def watch() -> None:
            while not ended.wait(_SECONDS_BETWEEN_LOOKS):
                counter.look(under_way())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield counter
        finally:
            ended.set()
            watcher.join()
