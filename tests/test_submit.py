"""`ray job submit` against a real cluster of three nodes with its job server, as in production."""

import json
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from support.labelling import settings, table_of
from support.ray_head import kill_node, processes, running_head, running_worker
from support.same import assert_same_labels
from support.shards import random_texts, write_shard

from pipelines.labelling.job import label
from pipelines.running.executor import RayExecutor

pytestmark = pytest.mark.integration

SHARDS, ROWS, SLICE_ROWS = 4, 250, 10
SLICES = SHARDS * ROWS // SLICE_ROWS
REPLICA = "ray::MapWorker(MapBatches(ClassifyActor))"


@pytest.fixture(scope="module")
def cluster():
    """The head does no slices; each of the others has room for one replica."""
    with (
        running_head(cpus=0) as head,
        running_worker(head) as first,
        running_worker(head) as second,
    ):
        yield head, [first, second]


def test_a_refused_job_fails(cluster, checkpoint, tmp_path):
    head, _ = cluster
    result = head.submit(
        "--input", tmp_path / "none", "--output", tmp_path, "--model", checkpoint, "--speed", "0.4"
    )
    assert result.returncode == 1
    assert "no Parquet file at" in result.stdout


def test_a_submitted_job_equals_a_local_one_although_a_node_is_lost(cluster, checkpoint, tmp_path):
    head, workers = cluster
    for k in range(SHARDS):
        write_shard(tmp_path / "in" / f"dt={k}" / "a.parquet", random_texts(ROWS, seed=k))
    output, results = tmp_path / "out", []
    arguments = [
        "--input", tmp_path / "in", "--output", output, "--model", checkpoint, "--speed", "0.4",
        "--slice-rows", SLICE_ROWS, "--replicas", "1:2", "--cpus-per-replica", "2",
        "--precision", "fp32",
    ]  # fmt: skip
    job = threading.Thread(target=lambda: results.append(head.submit(*arguments)))
    job.start()
    while committed(output) < SLICES // 4 and job.is_alive():
        time.sleep(0.02)
    at_work = [node for node in workers if processes(node, REPLICA)]
    assert at_work, "".join(r.stdout + r.stderr for r in results) or "no node has a replica"
    kill_node(at_work[0])
    left = SLICES - committed(output)
    job.join()
    assert left > SLICES // 10, "the node was killed too late to matter"
    (result,) = results
    assert result.returncode == 0, result.stdout + result.stderr
    line = next(ln for ln in result.stdout.splitlines() if ln.startswith('{"run_id"'))
    assert json.loads(line)["rows"] == SHARDS * ROWS
    assert committed(output) == SLICES
    wait_until_counted(head, rows=SHARDS * ROWS, exits=SHARDS * ROWS, slices=SLICES)
    label(settings(tmp_path / "in", tmp_path / "local", checkpoint, speed=0.4), RayExecutor())
    assert_same_labels(table_of(output), table_of(tmp_path / "local"))  # by other threads


def committed(output: Path) -> int:
    return len(list(output.glob("table/**/*.parquet")))


def wait_until_counted(head, **expected: int) -> None:
    """Until Prometheus reads these counters so; the cluster passes them on every few seconds."""
    deadline = time.monotonic() + 600
    while (found := {name: counted(head, name) for name in expected}) != expected:
        assert time.monotonic() < deadline, f"found {found}, expected {expected}"
        time.sleep(1)


def counted(head, name: str) -> float:
    """A counter of the job as Prometheus reads it, over all its labels."""
    lines = urllib.request.urlopen(head.metrics).read().decode().splitlines()
    mine = [line for line in lines if line.startswith(f"ray_fastbert_{name}_total{{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in mine)
