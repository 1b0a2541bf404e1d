"""How many cores a process takes for its own."""

import os
from types import SimpleNamespace

import pytest
import ray

from pipelines.machine import cores
from pipelines.running.cluster import cores_of_nodes


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 64 cores, on 8 of which this process may run, with these control group files."""

    def pretend(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("pipelines.machine.CGROUPS", tmp_path)
    return pretend


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "3200000 100000\n"}, 8),
        ({"cpu.max": "what?\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_affinity_and_quota_count(machine, files, expected):
    machine(files)
    assert cores() == expected


def test_of_the_own_node_no_more_than_there_are(machine, monkeypatch):
    """`start_ray` tells Ray of more."""
    machine({"cpu.max": "300000 100000\n"})
    sizes = {"here": 16, "there": 64, "gone": 64, "head": None}
    nodes = [
        {"NodeID": name, "Alive": name != "gone", "Resources": {"CPU": float(n)} if n else {}}
        for name, n in sizes.items()
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    here = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    assert cores_of_nodes() == [3, 64, 0]


def test_without_affinity(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 64
