"""`ray job submit` against a real cluster of three nodes with its job server, as in production."""

import json
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from packaging.version import Version
from support.labelling import settings, table_of
from support.ray_head import kill_node, processes, running_head, running_worker
from support.same import assert_same_labels
from support.shards import random_texts, write_shard
from support.stages import InProcess

from pipelines.labelling.job import label

pytestmark = pytest.mark.integration

SHARDS, ROWS, SLICE_ROWS = 4, 250, 10
SLICES = SHARDS * ROWS // SLICE_ROWS
REPLICA = "ray::MapWorker(MapBatches(ClassifyActor))"
OLD = Version(ray.__version__) < Version("2.56")
ON_EACH_NODE = """
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init()
task = ray.remote(num_cpus=0)(lambda: None)
ray.get([
    task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], False)).remote()
    for n in ray.nodes()
])
"""


@pytest.fixture(scope="module")
def cluster():
    """The head does no slices; each of the others has room for one replica."""
    with (
        running_head(cpus=0) as head,
        running_worker(head, cpus=3) as first,
        running_worker(head, cpus=3) as second,
    ):
        if OLD:  # nodes always share a folder: all must unpack into it now
            found = head.run("python", "-c", ON_EACH_NODE)
            assert found.returncode == 0, said(found)
        yield head, [first, second]


def test_a_refused_job_fails(cluster, checkpoint, tmp_path):
    head, _ = cluster
    result = head.submit(
        "--input", tmp_path / "none", "--output", tmp_path, "--model", checkpoint, "--speed", "0.4"
    )
    assert result.returncode == 1, said(result)
    assert "no Parquet, Arrow, JSON Lines or CSV at" in result.stdout


def test_a_submitted_job_equals_a_local_one_although_a_node_is_lost(cluster, checkpoint, tmp_path):
    head, workers = cluster
    for k in range(SHARDS):
        write_shard(tmp_path / "in" / f"dt={k}" / "a.parquet", random_texts(ROWS, seed=k))
    output = tmp_path / "out"
    arguments = [
        "--input", tmp_path / "in", "--output", output, "--model", checkpoint, "--speed", "0.4",
        "--slice-rows", SLICE_ROWS, "--replicas", "1:2", "--cpus-per-replica", "2",
        "--precision", "fp32",
    ]  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(head.submit, *arguments)
        while committed(output) < SLICES // 4 and not job.done():
            time.sleep(0.02)
        assert not job.done(), f"it ended early: {said(job.result())}"
        at_work = [node for node in workers if processes(node, REPLICA)]
        assert at_work, "no node has a replica"
        kill_node(at_work[0])
        left = SLICES - committed(output)
    result = job.result()
    assert left > SLICES // 10, f"the node was killed too late to matter: {said(result)}"
    assert result.returncode == 0, said(result)
    line = next(ln for ln in result.stdout.splitlines() if ln.startswith('{"run_id"'))
    assert json.loads(line)["rows"] == SHARDS * ROWS
    assert committed(output) == SLICES
    if not OLD:  # with a token, 2.52 passes on no counters
        wait_until_counted(head, rows=SHARDS * ROWS, exits=SHARDS * ROWS, slices=SLICES)
    label(settings(tmp_path / "in", tmp_path / "local", checkpoint, speed=0.4), InProcess())
    assert_same_labels(table_of(output), table_of(tmp_path / "local"))  # by other threads


def said(result: subprocess.CompletedProcess) -> str:
    return f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"


def committed(output: Path) -> int:
    return len(list(output.glob("table/**/*.parquet")))


def wait_until_counted(head, **expected: int) -> None:
    """Until Prometheus reads these counters so; the cluster passes them on every few seconds."""
    deadline = time.monotonic() + 120
    while (found := {name: counted(head, name) for name in expected}) != expected:
        assert time.monotonic() < deadline, f"found {found}, expected {expected}"
        time.sleep(1)


def counted(head, name: str) -> float:
    """A counter of the job as Prometheus reads it, over all its labels."""
    lines = urllib.request.urlopen(head.metrics).read().decode().splitlines()
    mine = [line for line in lines if line.startswith(f"ray_fastbert_{name}_total{{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in mine)
