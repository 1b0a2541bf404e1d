"""`ray job submit` against a real cluster with its job server, as in production."""

import json
import time
import urllib.request

import pytest
from conftest import random_texts, write_shard
from ray_head import running_head
from test_label import settings, table_of

from pipelines.label import label

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def head():
    with running_head() as node:
        yield node


def test_submitted_job_equals_a_local_one(head, checkpoint, tmp_path):
    for k in range(3):
        write_shard(tmp_path / "in" / f"dt={k}" / "a.parquet", random_texts(15 + k, seed=k))
    arguments = ["--input", tmp_path / "in", "--model", checkpoint, "--speed", "0.4"]
    arguments += ["--output", tmp_path / "out", "--slice-rows", "10", "--cpus-per-replica", "1"]
    first = head.submit(*arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    summary = json.loads(next(ln for ln in first.stdout.splitlines() if ln.startswith('{"run_id"')))
    assert (summary["slices_labelled"], summary["rows"]) == (6, 48)
    assert counted(head, "rows") == counted(head, "exits") == 48
    assert counted(head, "slices") == 6
    local = label(settings(tmp_path / "in", tmp_path / "local", checkpoint, speed=0.4))
    assert local["exit_code"] == 0
    assert table_of(tmp_path / "out").equals(table_of(tmp_path / "local"))


def counted(head, name: str) -> float:
    """A counter of the job as Prometheus reads it, over all its labels; the cluster passes them on
    every few seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        text = urllib.request.urlopen(head.metrics).read().decode()
        lines = [ln for ln in text.splitlines() if ln.startswith(f"ray_fastbert_{name}_total{{")]
        if lines:
            return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
        time.sleep(1)
    pytest.fail(f"no counter {name}: {text[-2000:]}")


def test_a_refused_job_fails(head, checkpoint, tmp_path):
    result = head.submit(
        "--input", tmp_path / "none", "--output", tmp_path, "--model", checkpoint, "--speed", "0.4"
    )
    assert result.returncode == 1
    assert "no Parquet file at" in result.stdout
