"""The Ray cluster a job runs on: the one it was submitted to, or a private one."""

import logging
import os
from typing import Any

import ray
from ray.data import DataContext


def start_ray() -> None:
    """Join the cluster that RAY_ADDRESS names, as in `ray job submit`, else start a private one."""
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        # Twice the cores: replicas hold all of them, readers and commits wait for I/O or are
        # short. Ray Data hangs on two logical CPUs.
        ray.init(
            address="local",
            num_cpus=max(4, 2 * cores()),
            include_dashboard=False,
            **quiet,
        )
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # we report progress ourselves


def cluster_resources() -> dict[str, float]:
    """What the cluster, started if need be, has now: "CPU" and, where there are some, "GPU"."""
    start_ray()
    return dict(ray.cluster_resources())


def cores() -> int:
    """CPU cores of this machine."""
    return os.cpu_count() or 1
