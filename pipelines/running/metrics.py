"""What a run does while it does it: Prometheus counters, exported by the Ray cluster it runs on.

Ray adds `ray_` in front of the names and `_total` behind them. A private Ray exports nothing.
"""

from ray.util.metrics import Counter

from pipelines.output.ledger import Record

_COUNTERS = {
    "fastbert_slices": "Slices committed.",
    "fastbert_rows": "Rows committed, those with an error included.",
    "fastbert_error_rows": "Rows committed with an error.",
    "fastbert_tokens": "Tokens labelled.",
    "fastbert_flops": "Floating-point operations done.",
    "fastbert_full_flops": "Floating-point operations the same rows would take at full depth.",
    "fastbert_device_seconds": "Seconds of replicas at work.",
    "fastbert_audit_rows": "Rows that ran to full depth as well.",
    "fastbert_audit_agreements": "Of these, rows whose label is that of full depth.",
    "fastbert_retries": "Times something was done again after a fault.",
}


class Metrics:
    """The counters of one run; `output` tells runs apart that label different corpora."""

    def __init__(self, output: str) -> None:
        self.tags = {"output": output}
        self.counters = {
            name: Counter(name, description, tag_keys=("output",))
            for name, description in _COUNTERS.items()
        }
        self.exits = Counter("fastbert_exits", "Rows by exit layer.", tag_keys=("output", "layer"))

    def add(self, record: Record) -> None:
        """A slice has been committed."""
        amounts = vars(record) | {"slices": 1, "flops": sum(record.exit_flops)}
        for name, counter in self.counters.items():
            if amount := amounts[name.removeprefix("fastbert_")]:
                counter.inc(amount, self.tags)
        for layer, rows in enumerate(record.exits, start=1):
            if rows:
                self.exits.inc(rows, self.tags | {"layer": str(layer)})
