"""The Ray cluster a job runs on: the one it was submitted to, or a private one."""

import logging
import math
import os
import secrets
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.data import DataContext

# Waits until its stdin closes, as it does however the driver ends, then until Ray's processes,
# which end with the driver, have written their last.
CLEANER = 'trap "" HUP INT TERM; read -r line; for i in 1 2 3 4 5; do rm -rf -- "$0"; sleep 1; done'

#: How a private Ray, which is told of more, knows how many cores there are.
_CORES = "cores"
#: Where Linux shows the limits of control groups: version 2's, or version 1's by controller.
CGROUPS = Path("/sys/fs/cgroup")

_cleaners: list[subprocess.Popen[bytes]] = []  # collected, they would see their stdin closed


def start_ray() -> None:
    """Join the cluster that RAY_ADDRESS names, as in `ray job submit`, else start a private one."""
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local"):
        ray.init(**quiet)
    else:
        keep_to_ourselves()
        # Twice the cores: replicas hold all of them, readers and commits wait for I/O or are
        # short. Ray Data hangs on two logical CPUs.
        ray.init(
            address="local",
            num_cpus=max(4, 2 * cores()),
            resources={_CORES: cores()},
            include_dashboard=False,
            # One deeper: Ray lets all users write to the directory that it is given.
            _temp_dir=os.path.join(private_directory(), "r"),
            **quiet,
        )
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # we report progress ourselves


def keep_to_ourselves() -> None:
    """Let the Ray that this process starts next serve nobody else; its processes inherit this.

    Whoever can talk to Ray runs code as its user. Every port of it that remains is on the loopback
    interface and, as all users of this machine reach that, wants a token that no other run has.
    """
    # Its logs go when it goes; what is an error to C++ is mostly a hint for developers of Ray.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Metrics are served without asking for the token. These two have no other switch.
        "RAY_enable_metrics_collection": "0",
        "AUTOSCALER_METRIC_PORT": "65536",
        "DASHBOARD_METRIC_PORT": "65536",
    }
    Config.initialize("")  # in this process they have been read already
    AuthenticationTokenLoader.instance().reset_cache()
    # Ray's switch for macOS, and its only one: it takes _node_ip_address="127.0.0.1" for
    # the address of the first network interface.
    ray_constants.ENABLE_RAY_CLUSTER = False


def private_directory() -> str:
    """A new directory that no other user can enter, removed after this process has ended.

    Not by this process, which would forget it when killed.
    """
    parent = os.path.abspath(get_default_system_temp_dir())
    os.makedirs(parent, exist_ok=True)
    path = tempfile.mkdtemp(prefix="ray-", dir=parent)  # sockets' paths have 107 bytes: be short
    cleaner = subprocess.Popen(
        ["sh", "-c", CLEANER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # what is sent to this process's group is not meant for it
    )
    _cleaners.append(cleaner)
    return path


def cluster_resources() -> dict[str, float]:
    """What the cluster has now: "CPU" and, where there are some, "GPU"."""
    return dict(ray.cluster_resources())


def cores_of_nodes() -> list[int]:
    """The CPU cores of each node, as far as Ray may use them."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [int(node.get(_CORES, node.get("CPU", 0))) for node in nodes]


def cores() -> int:
    """CPU cores that this process may use: of the machine, by its affinity and its container's
    quota; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # on Linux
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min(allowed, _quota(CGROUPS))))


def _quota(root: Path) -> float:
    """Cores' worth of time that the control group mounted at `root`, as a container sees its own,
    gets; infinite where nothing is said."""
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            text = " ".join((root / name).read_text() for name in names)
            quota, period = map(float, text.replace("max", "inf").split())
        except (OSError, ValueError):
            continue
        return quota / period if quota > 0 and period > 0 else math.inf  # version 1 says -1
    return math.inf
