"""How often something was begun and not finished: what kills its process must not do so for ever.

Kept by one process of its own, which outlives those that are killed.
"""

from collections import Counter


class Attempts:
    """Counts, by what and stage, the attempts that did not come to an end.

    `what` is tried by one process at a time: a slice, or the start of one actor.
    """

    def __init__(self) -> None:
        self._open: Counter[tuple[str, str]] = Counter()

    def begin(self, what: str, stage: str) -> int:
        """Note an attempt; returns how many before it have ended their process."""
        failed = self._open[what, stage]
        self._open[what, stage] += 1
        return failed

    def end(self, what: str, stage: str) -> None:
        """The attempt came to an end, good or bad, and its process lives."""
        self._open.pop((what, stage), None)
