"""Progress of a run as Prometheus counters."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, write_to_textfile

from fastbert.filesystem import redacted
from pipelines.output.record import Record
from pipelines.output.statistics import MEASURES

_EXPORTED = {f"fastbert_{m.total or m.name}": m for m in MEASURES if m.exported}

#: Names and meanings. Exporters add `_total`.
COUNTERS = {
    "fastbert_slices": "Slices committed.",
    "fastbert_rows": "Rows committed, those with an error included.",
    **{name: measure.meaning for name, measure in _EXPORTED.items()},
}


class Metrics(ABC):
    """The counters of one run; `output` distinguishes runs that label different corpora."""

    def __init__(self, output: str, counter: Callable[[str, str, tuple[str, ...]], Any]) -> None:
        """`counter` makes a counter from its name, meaning and labels."""
        # Ray takes ASCII only.
        self.tags = {"output": redacted(output).encode("ascii", "backslashreplace").decode()}
        by_exit = {name for name, measure in _EXPORTED.items() if measure.by_exit}
        self.counters = {
            name: counter(name, meaning, ("output", "layer") if name in by_exit else ("output",))
            for name, meaning in COUNTERS.items()
        }

    def add(self, record: Record) -> None:
        """Count a committed slice."""
        self.count("fastbert_slices", 1, self.tags)
        self.count("fastbert_rows", record.rows, self.tags)
        for name, measure in _EXPORTED.items():
            amount = measure.sum([record])
            if not measure.by_exit:
                self.count(name, amount, self.tags)
                continue
            for depth, part in zip(record.depths, amount, strict=True):
                self.count(name, part, self.tags | {"layer": str(depth)})

    @abstractmethod
    def count(self, name: str, amount: float, tags: dict[str, str]) -> None:
        """Add to one of the counters."""


class MetricsFile(Metrics):
    """The counters in a file, which node_exporter's textfile collector reads."""

    def __init__(self, path: str, output: str) -> None:
        self.path, self.registry = path, CollectorRegistry()

        def counter(name: str, meaning: str, labels: tuple[str, ...]) -> Counter:
            return Counter(name, meaning, labels, registry=self.registry)

        super().__init__(output, counter)

    def add(self, record: Record) -> None:
        """As in `Metrics`; the file is complete at every moment."""
        super().add(record)
        write_to_textfile(self.path, self.registry)

    def count(self, name: str, amount: float, tags: dict[str, str]) -> None:
        """As in `Metrics`."""
        self.counters[name].labels(**tags).inc(amount)
