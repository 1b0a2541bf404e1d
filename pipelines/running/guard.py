"""How often something was begun and not finished: what kills its process does so a few times.

And how far the slices at work are, as far as their processes tell.
"""

import faulthandler
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class Counts(Protocol):
    """`Attempts`, or what reaches those of another process."""

    def failed(self, what: str, stage: str) -> int:
        """How many attempts have ended their process."""

    def begin(self, what: str, stage: str) -> int:
        """Note an attempt; returns how many before it have ended their process."""

    def end(self, what: str, stage: str) -> None:
        """The attempt came to an end, good or bad, and its process lives."""

    def advance(self, what: str, rows: float) -> None:
        """So many rows of a slice are done, about."""


class Attempts:
    """Counts, by what and stage, the attempts that did not come to an end.

    It is kept where it outlives processes that are killed. `what` is tried by one process at a
    time: a slice, or the start of one process.
    """

    def __init__(self) -> None:
        self._open: Counter[tuple[str, str]] = Counter()
        self._rows: dict[str, float] = {}

    def failed(self, what: str, stage: str) -> int:
        """As in `Counts`."""
        return self._open[what, stage]

    def begin(self, what: str, stage: str) -> int:
        """As in `Counts`."""
        failed = self._open[what, stage]
        self._open[what, stage] += 1
        return failed

    def end(self, what: str, stage: str) -> None:
        """As in `Counts`."""
        self._open.pop((what, stage), None)
        self._rows.pop(what, None)

    def advance(self, what: str, rows: float) -> None:
        """As in `Counts`."""
        self._rows[what] = rows

    def under_way(self) -> float:
        """Rows that are done, about, of the slices at work."""
        return sum([*self._rows.values()])  # of a copy: others may write meanwhile


@dataclass(frozen=True)
class Guard:
    """Counts the attempts at a slice, and ends the process of one that takes too long."""

    attempts: Counts
    limit: int
    timeout: float  # seconds

    @contextmanager
    def attempt(self, what: str, stage: str, timeout: float | None = None) -> Iterator[int]:
        """An attempt at `what`; gives how many before it have ended their process.

        It has so many seconds, by default the guard's `timeout`.
        """
        failed = self.attempts.begin(what, stage)
        # A thread of C: it works while Python hangs in a call that does not let go of it.
        faulthandler.dump_traceback_later(timeout or self.timeout, exit=True)
        try:
            yield failed
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.attempts.end(what, stage)
