"""Counters add up to what was committed, and the dashboard asks for counters that there are."""

import json
import re
from collections import Counter
from pathlib import Path

from support.records import record

from pipelines.running import metrics
from pipelines.running.metrics import Metrics

DASHBOARD = Path(__file__).resolve().parents[1] / "deploy" / "grafana.json"


class Fake:
    """`ray.util.metrics.Counter` without Ray."""

    counted: Counter = Counter()

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys = name, tag_keys

    def inc(self, amount: float, tags: dict[str, str]) -> None:
        assert amount > 0  # Ray refuses others
        assert set(tags) == set(self.tag_keys)
        self.counted[self.name, tags.get("layer")] += amount


def test_counters_add_up(monkeypatch):
    monkeypatch.setattr(metrics, "Counter", Fake)
    counters = Metrics("s3://out")
    for shard in ("a", "b"):
        counters.add(record(shard, retries=3))
    counted = {name: amount for (name, layer), amount in Fake.counted.items() if not layer}
    assert counted == {
        "fastbert_slices": 2,
        "fastbert_rows": 20,
        "fastbert_error_rows": 2,
        "fastbert_tokens": 180,
        "fastbert_flops": 2800,
        "fastbert_full_flops": 5400,
        "fastbert_device_seconds": 0.6,
        "fastbert_audit_rows": 4,
        "fastbert_audit_agreements": 2,
        "fastbert_retries": 6,
    }
    layers = {layer: n for (name, layer), n in Fake.counted.items() if name == "fastbert_exits"}
    assert layers == {"1": 10, "2": 6, "3": 2}


def test_the_dashboard_asks_for_counters_that_there_are():
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    assert len(expressions) >= 9
    asked = {name for e in expressions for name in re.findall(r"ray_(\w+?)_total\{", e)}
    assert asked == {*metrics.COUNTERS}
    labels = {name for e in expressions for name in re.findall(r"(?:by \(|\{)(\w+)", e)}
    assert labels == {"output", "layer"}


def test_the_output_may_have_any_name(monkeypatch):
    """Ray takes ASCII only, and its error would end the run."""
    counted = []
    monkeypatch.setattr(metrics, "Counter", Fake)
    monkeypatch.setattr(Fake, "inc", lambda fake, amount, tags: counted.append(tags["output"]))
    Metrics("/home/josé/labels \udcff").add(record("a"))
    assert set(counted) == {r"/home/jos\xe9/labels \udcff"}
