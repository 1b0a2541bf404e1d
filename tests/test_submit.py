"""`ray job submit` against a real cluster with its job server, as in production."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import random_texts, write_shard
from test_label import settings, table_of

from pipelines.label import label

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).parent / "ray"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head node with four logical CPUs; yields (address of the job server, environment)."""
    gcs, dashboard = free_port(), free_port()
    # With a token only whoever can read this user's ~/.ray/auth_token may submit.
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "PATH": f"{RAY.parent}:{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    head = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", "--num-cpus=4", f"--port={gcs}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 120
    try:
        while subprocess.run(
            [RAY, "job", "list", "--address", address], env=environment, capture_output=True
        ).returncode:
            assert head.poll() is None
            assert time.monotonic() < deadline, "the job server did not come up"
            time.sleep(1)
        yield address, environment
    finally:
        # Asked politely, Ray takes up to a minute to stop.
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            process.kill()
        head.wait(30)


def submit(cluster, *arguments: object) -> subprocess.CompletedProcess:
    address, environment = cluster
    command = [
        RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", "python",
        "jobs/label.py", *map(str, arguments),
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def test_submitted_job_equals_a_local_one(cluster, checkpoint, tmp_path):
    for k in range(3):
        write_shard(tmp_path / "in" / f"dt={k}" / "a.parquet", random_texts(15 + k, seed=k))
    arguments = ["--input", tmp_path / "in", "--model", checkpoint, "--speed", "0.4"]
    arguments += ["--cpus-per-replica", "1"]
    first = submit(cluster, *arguments, "--output", tmp_path / "out", "--slice-rows", "10")
    assert first.returncode == 0, first.stdout + first.stderr
    summary = json.loads(next(ln for ln in first.stdout.splitlines() if ln.startswith('{"run_id"')))
    assert (summary["slices_labelled"], summary["rows"]) == (6, 48)
    again = submit(cluster, *arguments, "--output", tmp_path / "out", "--slice-rows", "10")
    assert '"slices_labelled": 0' in again.stdout
    local = label(settings(tmp_path / "in", tmp_path / "local", checkpoint, speed=0.4))
    assert local["exit_code"] == 0
    assert table_of(tmp_path / "out").equals(table_of(tmp_path / "local"))


def test_a_refused_job_fails(cluster, checkpoint, tmp_path):
    result = submit(
        cluster, "--input", tmp_path / "none", "--output", tmp_path, "--model", checkpoint,
        "--speed", "0.4",
    )  # fmt: skip
    assert result.returncode == 1
    assert "no Parquet file at" in result.stdout
