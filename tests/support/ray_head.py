"""A real one-node Ray cluster with its job server, for tests of `ray job submit`."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from support import ROOT

BIN = Path(sys.executable).parent
#: How environment variables of Ray begin.
RAYS = ("RAY_", "AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")


@dataclass(frozen=True)
class Head:
    """A running head node."""

    address: str  # of its job server
    cluster: str  # for RAY_ADDRESS
    metrics: str  # URL for Prometheus
    environment: dict[str, str]

    def submit(self, *arguments: object) -> subprocess.CompletedProcess:
        """`jobs/label.py` with these arguments as a job, from the repository's root; waits."""
        command = [
            BIN / "ray", "job", "submit", "--address", self.address, "--working-dir", ".", "--",
            "python", "jobs/label.py", *map(str, arguments),
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=900
        )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def running_head(cpus: int = 4, **environment: str) -> Iterator[Head]:
    """A head node with so many logical CPUs; jobs see `environment` as well."""
    dashboard, metrics, cluster = free_port(), free_port(), free_port()
    # A private Ray that a test before started in this process leaves its switches here.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(RAYS)}
    # Only who has the token may submit.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = inherited | token | environment
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    command = [
        BIN / "ray", "start", "--head", "--block", f"--num-cpus={cpus}", f"--port={cluster}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    node = subprocess.Popen(command, env=environment, **quiet)
    address = f"http://127.0.0.1:{dashboard}"
    ask = [BIN / "ray", "job", "list", "--address", address]
    deadline = time.monotonic() + 600
    try:
        while subprocess.run(ask, env=environment, **quiet).returncode:
            assert node.poll() is None, "ray start has failed"
            assert time.monotonic() < deadline, "the job server did not come up"
            time.sleep(1)
        scrape = f"http://127.0.0.1:{metrics}/metrics"
        yield Head(address, f"127.0.0.1:{cluster}", scrape, environment)
    finally:
        kill_node(node)


@contextmanager
def running_worker(head: Head, cpus: int = 4) -> Iterator[subprocess.Popen]:
    """Another node of the cluster, once it has joined; it may be killed meanwhile."""
    before = nodes(head)
    command = [
        BIN / "ray", "start", f"--address={head.cluster}", "--block", f"--num-cpus={cpus}",
        f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    node = subprocess.Popen(command, env=head.environment, **quiet)
    deadline = time.monotonic() + 600
    try:
        while nodes(head) <= before:
            assert node.poll() is None, "ray start has failed"
            assert time.monotonic() < deadline, "the node did not join"
            time.sleep(0.5)
        yield node
    finally:
        if node.poll() is None:
            kill_node(node)


def nodes(head: Head) -> int:
    """Nodes of the cluster that are alive."""
    ask = [BIN / "ray", "list", "nodes", "--address", head.address, "--format", "json"]
    found = subprocess.run(ask, env=head.environment, capture_output=True, text=True, check=True)
    if found.stdout == "No resource in the cluster\n":  # the head has not joined itself yet
        return 0
    return sum(node["state"] == "ALIVE" for node in json.loads(found.stdout))


def processes(node: subprocess.Popen, title: str) -> list[psutil.Process]:
    """Those of a node's processes whose title begins like this."""
    found = []
    for process in psutil.Process(node.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
    return found


def kill_node(node: subprocess.Popen) -> None:
    """All of its processes at once. Asked politely, Ray takes up to a minute to stop."""
    for process in [*psutil.Process(node.pid).children(recursive=True), node]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait(30)
