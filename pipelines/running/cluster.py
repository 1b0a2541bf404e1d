"""The Ray cluster a job runs on: the one it was submitted to, or a private one."""

import contextlib
import errno
import logging
import math
import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.data import DataContext
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError

from fastbert.errors import FastBertError, InputError, first_line

log = logging.getLogger(__name__)

# Waits until its stdin closes, as it does however the driver ends, then until Ray's processes,
# which end with the driver, have written their last.
CLEANER = 'trap "" HUP INT TERM; read -r line; for i in 1 2 3 4 5; do rm -rf -- "$0"; sleep 1; done'

#: Every Ray's head lets everybody ask whether it lives.
_HEALTH, _HEALTH_SECONDS = "/grpc.health.v1.Health/Check", 20.0
#: What sockets may have as the path of the directory above Ray's own: 107 bytes in all.
_LONGEST_TMPDIR = 27
#: How a private Ray, which is told of more, knows how many cores there are.
_CORES = "cores"
#: Where Linux shows the limits of control groups: version 2's, or version 1's by controller.
CGROUPS = Path("/sys/fs/cgroup")

_cleaners: list[subprocess.Popen[bytes]] = []  # collected, they would see their stdin closed


def start_ray() -> None:
    """Join the cluster that RAY_ADDRESS names, as in `ray job submit`, else start a private one.

    Raises FastBertError if that cannot be reached or started, InputError for what is no address.
    """
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        keep_to_ourselves()
        with _started("cannot start Ray on this machine", "see whether it has memory and disk"):
            # Twice the cores: replicas hold all of them, readers and commits wait for I/O or are
            # short. Ray Data hangs on two logical CPUs.
            ray.init(
                address="local",
                num_cpus=max(4, 2 * cores()),
                resources={_CORES: cores()},
                include_dashboard=False,
                **_directories(),
                **quiet,
            )
    else:
        advice = (
            f"see that the cluster is up, takes this user's token and is of Ray {ray.__version__}, "
            "or unset RAY_ADDRESS"
        )
        with _started(f"cannot join the Ray cluster at RAY_ADDRESS '{address}'", advice):
            check_address(address)
            ray.init(**quiet)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # we report progress ourselves
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)  # and faults


@contextlib.contextmanager
def _started(what: str, advice: str) -> Iterator[None]:
    """Whatever Ray raises when it starts, of many kinds, is one line."""
    try:
        yield
    except FastBertError:
        raise
    except Exception as error:
        raise FastBertError(f"{what}: {first_line(error)}; {advice}") from error


def check_address(address: str) -> None:
    """Raises InputError for what is no address of a cluster, and FastBertError if nothing answers
    there: Ray itself would ask again for an hour."""
    if address.startswith("ray://") or address == "auto":
        return  # Ray gives up by itself
    if not re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}", address):
        raise InputError(
            f"RAY_ADDRESS is '{address}', expected HOST:PORT of a cluster's head, such as "
            "10.0.0.1:6379; http:// addresses are for ray job submit, and without RAY_ADDRESS the "
            "job runs on this machine"
        )
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # needs its certificates
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_HEALTH)(b"", timeout=_HEALTH_SECONDS)
        except grpc.RpcError as error:
            said: Any = error
            raise FastBertError(
                f"no Ray cluster answers at RAY_ADDRESS '{address}' ({said.details()}); start it "
                "and run again, or unset RAY_ADDRESS to run on this machine"
            ) from error


@contextlib.contextmanager
def faults_of_ray() -> Iterator[None]:
    """What befalls processes, nodes and disks of the cluster becomes a FastBertError of one line;
    a bug in a stage keeps its traceback."""
    try:
        yield
    except (RayError, ExecutionTimeoutError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        full = [line for line in lines if os.strerror(errno.ENOSPC) in line]
        if isinstance(error, RayTaskError) and not full:
            raise
        said = full[-1] if full else lines[-1] if "creation task" in lines[0] else lines[0]
        raise FastBertError(
            f"Ray cannot go on: {said}; what is committed is kept, run again"
        ) from error


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


def _directories() -> dict[str, Any]:
    """Where a private Ray has its sockets and logs, and what is too much for its memory: below
    RAY_TMPDIR or TMPDIR. Where that is too long for sockets, they alone lie elsewhere.

    Raises InputError if there is no such place.
    """
    asked = os.path.abspath(get_default_system_temp_dir())
    refused: list[str] = []
    result: dict[str, Any] = {}
    for parent in dict.fromkeys((asked, "/tmp", "/var/tmp")):
        try:
            path = private_directory(parent)
        except OSError as error:
            refused.append(str(error))
            continue
        if len(os.fsencode(parent)) > _LONGEST_TMPDIR:
            result["object_spilling_directory"] = path
            continue
        if refused:
            log.warning("Ray's files lie below %s: %s", parent, refused[0])
        # One deeper: Ray lets all users write to the directory that it is given.
        return result | {"_temp_dir": os.path.join(path, "r")}
    raise InputError(
        f"there is no place for Ray's sockets and logs: {'; '.join(refused) or asked}; let "
        f"RAY_TMPDIR name a directory that this user can write, in {_LONGEST_TMPDIR} bytes at most"
    )


def private_directory(parent: str) -> str:
    """A new directory that no other user can enter, removed after this process has ended.

    Not by this process, which would forget it when killed.
    """
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
