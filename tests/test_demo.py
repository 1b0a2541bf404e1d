"""`make demo`, with a shorter training: it reports, and labels nothing twice."""

import json
import os
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[1]


def test_demo(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    shorter = "DEMO_TRAINING=--epochs 0.5 --distil-epochs 1"
    command = ["make", "demo", f"DEMO={tmp_path}", shorter]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    summaries = [json.loads(ln) for ln in result.stdout.splitlines() if ln.startswith("{")]
    trained, calibrated, first, second, report = summaries
    assert trained["layers"] == 6
    point = calibrated["operating_point"]
    assert first["thresholds"] == second["thresholds"] == point["thresholds"]
    assert (first["rows"], first["error_rows"]) == (3600, 3)
    assert first["mean_exit_layer"] < 5
    assert first["audit_agreement"] > 0.95
    assert second["slices_labelled"] == 0
    assert second["slices_up_to_date"] == first["slices_labelled"] == 9
    assert second["seconds"] < 15
    assert sum(row["rows"] for row in report["exit_layers"]) == 3597
    assert "exit layers" in result.stderr
    assert "<svg" in (tmp_path / "report.html").read_text()
    tables = sorted((tmp_path / "labels" / "table").rglob("*.parquet"))
    ids = [i for t in tables for i in pq.read_table(t, partitioning=None)["id"].to_pylist()]
    assert ids == list(range(1200)) * 3
