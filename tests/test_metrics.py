"""Counters add up to what was committed, and the dashboard asks for counters that there are."""

import json
import re
from collections import Counter
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from support.records import record

from pipelines.labelling.metrics import COUNTERS, MetricsFile
from pipelines.running.ray_data import RayMetrics

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


EXPECTED = {
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
    "fastbert_truncated_rows": 2,
}
LAYERS = {"1": 10, "2": 6, "3": 2}


def test_counters_add_up():
    counters = RayMetrics("s3://out", Fake)
    for shard in ("a", "b"):
        counters.add(record(shard, retries=3, truncated_rows=1))
    counted = {name: amount for (name, layer), amount in Fake.counted.items() if not layer}
    assert counted == EXPECTED
    layers = {layer: n for (name, layer), n in Fake.counted.items() if name == "fastbert_exits"}
    assert layers == LAYERS


def test_the_file_says_the_same(tmp_path):
    path = tmp_path / "labels.prom"
    counters = MetricsFile(str(path), "s3://out")
    for shard in ("a", "b"):
        counters.add(record(shard, retries=3, truncated_rows=1))
    found = {
        (sample.name, sample.labels.get("layer")): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    expected = {(f"{name}_total", None): n for name, n in EXPECTED.items()}
    expected |= {("fastbert_exits_total", layer): n for layer, n in LAYERS.items()}
    assert found == expected


def test_the_dashboard_asks_for_counters_that_there_are():
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    assert len(expressions) >= 9
    asked = {name for e in expressions for name in re.findall(r"ray_(\w+?)_total\{", e)}
    assert asked == {*COUNTERS}
    labels = {name for e in expressions for name in re.findall(r"(?:by \(|\{)(\w+)", e)}
    assert labels == {"output", "layer"}


def test_the_output_may_have_any_name(monkeypatch):
    """Ray takes ASCII only, and its error would end the run."""
    counted = []
    monkeypatch.setattr(Fake, "inc", lambda fake, amount, tags: counted.append(tags["output"]))
    RayMetrics("/home/josé/labels \udcff", Fake).add(record("a"))
    assert set(counted) == {r"/home/jos\xe9/labels \udcff"}
