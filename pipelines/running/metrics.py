"""What a run does while it does it: Prometheus counters, exported by the Ray cluster it runs on.

Ray adds `ray_` in front of the names and `_total` behind them. A private Ray exports nothing.
"""

from ray.util.metrics import Counter

from fastbert.filesystem import redacted
from pipelines.output.ledger import Record
from pipelines.output.statistics import MEASURES

_EXPORTED = {f"fastbert_{m.total or m.name}": m for m in MEASURES if m.exported}

#: Names, and what they count.
COUNTERS = {
    "fastbert_slices": "Slices committed.",
    "fastbert_rows": "Rows committed, those with an error included.",
    **{name: measure.meaning for name, measure in _EXPORTED.items()},
}


class Metrics:
    """The counters of one run; `output` tells runs apart that label different corpora."""

    def __init__(self, output: str) -> None:
        # Ray takes ASCII only.
        self.tags = {"output": redacted(output).encode("ascii", "backslashreplace").decode()}
        by_exit = {name for name, measure in _EXPORTED.items() if measure.by_exit}
        self.counters = {
            name: Counter(name, meaning, ("output", "layer") if name in by_exit else ("output",))
            for name, meaning in COUNTERS.items()
        }

    def add(self, record: Record) -> None:
        """A slice has been committed."""
        self._count("fastbert_slices", 1)
        self._count("fastbert_rows", record.rows)
        for name, measure in _EXPORTED.items():
            amount = measure.sum([record])
            if not measure.by_exit:
                self._count(name, amount)
                continue
            for depth, part in zip(record.depths, amount, strict=True):
                self._count(name, part, layer=str(depth))

    def _count(self, name: str, amount: float, **tags: str) -> None:
        if amount:  # Ray refuses to count nothing
            self.counters[name].inc(amount, self.tags | tags)
