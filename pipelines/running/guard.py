"""Counts of attempts that were begun and not finished, so that a slice can end only a few
processes; and the reported progress of slices.
"""

import faulthandler
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class Counts(Protocol):
    """Interface of `Attempts`, in this or another process."""

    def failed(self, what: str, stage: str) -> int:
        """Number of attempts that ended their process."""

    def begin(self, what: str, stage: str) -> int:
        """Count an attempt; returns how many before it ended their process."""

    def end(self, what: str, stage: str) -> None:
        """The attempt finished, with or without success, and its process lives."""

    def advance(self, what: str, rows: float) -> None:
        """Report the approximate number of rows done of a slice."""


class Attempts:
    """Counts the unfinished attempts, by `what` and stage.

    It is kept where it outlives killed processes. Only one process at a time tries `what`: a slice,
    or the start of one process.
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
        """Approximate number of rows done of slices in progress."""
        return sum([*self._rows.values()])  # a copy, because other threads may write meanwhile


@dataclass(frozen=True)
class Guard:
    """Counts the attempts at a slice, and ends the process if one takes too long."""

    attempts: Counts
    limit: int
    timeout: float  # seconds

    @contextmanager
    def attempt(self, what: str, stage: str, timeout: float | None = None) -> Iterator[int]:
        """Context of an attempt at `what`; yields how many before it ended their process.

        `timeout` is in seconds, by default the guard's.
        """
        failed = self.attempts.begin(what, stage)
        # A C thread: it works even if Python hangs in a call that holds the interpreter.
        faulthandler.dump_traceback_later(timeout or self.timeout, exit=True)
        try:
            yield failed
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.attempts.end(what, stage)
