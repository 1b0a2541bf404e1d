"""How often each slice was begun and not finished: what kills its process must not do so for ever.

Kept by one process of its own, which outlives those that a slice may kill.
"""

from collections import Counter


class Attempts:
    """Counts, per slice and stage, the attempts that did not come to an end."""

    def __init__(self) -> None:
        self._open: Counter[tuple[str, str]] = Counter()

    def begin(self, slice_id: str, stage: str) -> int:
        """Note an attempt; returns how many before it have failed."""
        failed = self._open[slice_id, stage]
        self._open[slice_id, stage] += 1
        return failed

    def end(self, slice_id: str, stage: str) -> None:
        """The attempt came to an end, good or bad, and its process lives."""
        self._open.pop((slice_id, stage), None)
