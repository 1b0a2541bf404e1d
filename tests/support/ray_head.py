"""A real one-node Ray cluster with its job server, for tests of `ray job submit`."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from support import ROOT

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A running head node."""

    address: str  # of its job server
    cluster: str  # for RAY_ADDRESS
    metrics: str  # URL for Prometheus
    environment: dict[str, str]

    def submit(self, *arguments: object) -> subprocess.CompletedProcess:
        """`jobs/label.py` with these arguments as a job."""
        return self.run("python", "jobs/label.py", *map(str, arguments))

    def run(self, *entrypoint: str) -> subprocess.CompletedProcess:
        """A command as a job, from the repository's root; waits."""
        command = [
            BIN / "ray", "job", "submit", "--address", self.address, "--working-dir", ".", "--",
            *entrypoint,
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=900
        )


def free_port() -> int:
    """Below those that the system assigns: no other process gets it before Ray listens."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("", port))
            return port


@contextmanager
def running_head(cpus: int = 4, **environment: str) -> Iterator[Head]:
    """A head node with so many logical CPUs; jobs see `environment` as well."""
    dashboard, metrics, cluster = free_port(), free_port(), free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    # Only who has the token may submit.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    soon = {"RAY_health_check_period_ms": "1000"}  # to notice that a node is gone
    environment = inherited | token | soon | environment
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    head = Head(
        f"http://127.0.0.1:{dashboard}",
        f"127.0.0.1:{cluster}",
        f"http://127.0.0.1:{metrics}/metrics",
        environment,
    )
    options = [
        "--head", f"--port={cluster}", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}",
        f"--ray-client-server-port={free_port()}",
    ]  # fmt: skip
    with running_node(options, cpus, environment, lambda: nodes(head) == 1):
        yield head


@contextmanager
def running_worker(head: Head, cpus: int = 4) -> Iterator[subprocess.Popen]:
    """Another node of the cluster, once it has joined; it may be killed meanwhile."""
    before = nodes(head)
    options = [f"--address={head.cluster}"]
    with running_node(options, cpus, head.environment, lambda: nodes(head) > before) as node:
        yield node


@contextmanager
def running_node(
    options: list[str], cpus: int, environment: dict[str, str], ready: Callable[[], bool]
) -> Iterator[subprocess.Popen]:
    """`ray start` with these options, once it is `ready`.

    It shares with other nodes on this machine neither ports nor files: two that unpack a job's
    working directory into one folder remove it below each other, and from below the job.
    """
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, for the paths of sockets
    command = [
        BIN / "ray", "start", "--block", f"--num-cpus={cpus}", f"--temp-dir={folder}",
        # From a range, which is the same for all nodes, two may take the same one.
        "--min-worker-port=0", "--max-worker-port=0",
        f"--dashboard-agent-listen-port={free_port()}", *options,
    ]  # fmt: skip
    said = Path(folder, "said")
    with said.open("wb") as output:
        node = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    deadline = time.monotonic() + 600
    try:
        while not ready():
            assert node.poll() is None, f"ray start has failed:\n{said.read_text()}"
            assert time.monotonic() < deadline, f"the node is not there:\n{said.read_text()}"
            time.sleep(0.2)
        yield node
    finally:
        if node.poll() is None:
            kill_node(node)
        shutil.rmtree(folder, ignore_errors=True)


def nodes(head: Head) -> int:
    """Nodes of the cluster that are alive, as its job server says; 0 as long as that is silent."""
    token = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(f"{head.address}/api/v0/nodes", headers=token)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)["data"]["result"]["result"]
    except OSError:
        return 0
    return sum(node["state"] == "ALIVE" for node in found)


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
