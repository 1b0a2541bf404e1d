"""Work in a process of its own, here or on a node of a cluster."""

import logging
import os
import subprocess
import sys
import time

import psutil
import pytest
from support import ROOT

from fastbert.errors import FastBertError, InputError
from pipelines.running import cluster
from pipelines.running.apart import apart

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _found_by_other_processes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")


def double(number: int) -> int:
    if number < 0:
        raise InputError("is negative")
    logging.getLogger("own").info("doubling %d", number)
    return 2 * number


def die() -> None:
    os._exit(9)


def wait(path: str) -> None:
    open(path, "w").close()
    time.sleep(600)


def on_a_node(function: str, *arguments):
    """As on a GPU, without one."""
    cluster.start_ray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "cluster_resources", lambda: {"GPU": 1.0})
        patch.setattr(cluster, "_task", lambda _: task(0))
        return cluster.on_a_gpu(function, *arguments)


task = cluster._task


@pytest.mark.parametrize("run", [apart, on_a_node])
def test_what_is_returned_raised_and_said(run, caplog, capfd):
    caplog.set_level("INFO")
    assert run(f"{__name__}:double", 21) == 42
    assert "doubling 21" in caplog.text + capfd.readouterr().err
    with pytest.raises(InputError, match="is negative"):
        run(f"{__name__}:double", -1)
    with pytest.raises(FastBertError, match=r"ended \(exit code 9\)|died|actor|worker"):
        run(f"{__name__}:die")


def test_without_a_gpu_it_is_here(monkeypatch):
    monkeypatch.setattr(cluster, "start_ray", lambda: None)
    monkeypatch.setattr(cluster, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(cluster, "apart", lambda *given: given)
    assert cluster.on_a_gpu("a:b", 1) == ("a:b", 1)


def test_it_ends_with_who_asked(tmp_path):
    started = tmp_path / "started"
    asks = f"from pipelines.running.apart import apart; apart('{__name__}:wait', '{started}')"

    process = subprocess.Popen([sys.executable, "-c", asks])
    deadline = time.monotonic() + 60
    while not started.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert psutil.wait_procs(children, timeout=20)[1] == []
