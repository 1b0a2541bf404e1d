"""A cluster of three nodes loses one while a submitted job is half done: the job ends right."""

import threading
import time
from pathlib import Path

import pytest
from conftest import random_texts, write_shard
from ray_head import kill_node, processes, running_head, running_worker
from test_label import settings, table_of

from pipelines.label import label

pytestmark = pytest.mark.integration

SHARDS, ROWS, SLICE_ROWS = 4, 500, 10
SLICES = SHARDS * ROWS // SLICE_ROWS
REPLICA = "ray::MapWorker(MapBatches(LabelActor))"


def committed(output: Path) -> int:
    return len(list(output.glob("table/**/*.parquet")))


def test_a_node_is_lost(checkpoint, tmp_path):
    for k in range(SHARDS):
        write_shard(tmp_path / "in" / f"dt={k}" / "a.parquet", random_texts(ROWS, seed=k))
    output = tmp_path / "out"
    done = []
    # As in production, the head does no slices; each of the others has room for one replica.
    with (
        running_head(cpus=0) as head,
        running_worker(head) as first,
        running_worker(head) as second,
    ):
        job = threading.Thread(
            target=lambda: done.append(
                head.submit(
                    "--input", tmp_path / "in", "--output", output, "--model", checkpoint,
                    "--speed", "0.4", "--slice-rows", SLICE_ROWS, "--replicas", "1:2",
                    "--cpus-per-replica", "2",
                )
            )
        )  # fmt: skip
        job.start()
        while committed(output) < SLICES // 4 and job.is_alive():
            time.sleep(0.02)
        at_work = [node for node in (first, second) if processes(node, REPLICA)]
        assert at_work, "no node has a replica"
        kill_node(at_work[0])
        left = SLICES - committed(output)
        job.join()
    assert left > SLICES // 10, "the node was killed too late to matter"
    (result,) = done
    assert result.returncode == 0, result.stdout + result.stderr
    assert committed(output) == SLICES
    label(settings(tmp_path / "in", tmp_path / "local", checkpoint, speed=0.4))
    assert table_of(output).equals(table_of(tmp_path / "local"))
