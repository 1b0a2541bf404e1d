"""The Ray cluster of a job: the one at RAY_ADDRESS, or one node started here.

Uses only Ray's public interface, and checks here what not all releases have.
"""

import contextlib
import errno
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import QueueHandler
from pkgutil import resolve_name
from queue import SimpleQueue
from typing import Any

import grpc
import ray
from ray.data import DataContext, exceptions
from ray.exceptions import RayError, RayTaskError

from fastbert.errors import FastBertError, InputError, first_line
from pipelines.machine import cores
from pipelines.running.apart import apart
from pipelines.running.quiet import quiet_transformers

#: The health check of every Ray head, open to all.
_HEALTH, _HEALTH_SECONDS = "/grpc.health.v1.Health/Check", 20.0
#: Failures of a cluster. Not all releases end jobs that make no progress.
_FAULTS = (RayError, getattr(exceptions, "ExecutionTimeoutError", RayError))


def start_ray() -> None:
    """Join the cluster at RAY_ADDRESS, as in `ray job submit`, or start Ray here, as open to others
    as Ray's own settings make it.

    Raises FastBertError if it cannot be reached or started, InputError if the address is invalid.
    """
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        advice = "check its memory and disk, or set RAY_TMPDIR to a shorter path"
        with _started("cannot start Ray on this machine", advice):
            # Twice the cores: replicas hold all of them, readers and commits wait for I/O or are
            # short. Ray Data hangs on two logical CPUs.
            ray.init(address, num_cpus=max(4, 2 * cores()), include_dashboard=False, **quiet)
    else:
        advice = (
            "check that the cluster is up, accepts this user's token and has Ray "
            f"{ray.__version__}, or unset RAY_ADDRESS"
        )
        with _started(f"cannot join the Ray cluster at RAY_ADDRESS '{address}'", advice):
            check_address(address)
            ray.init(**quiet)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # we report progress ourselves
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)  # and report faults


def on_a_gpu(function: str, *arguments: Any) -> Any:
    """The result of a function, named "package.module:function", on a node with a GPU; without one,
    in a process here. Its log records are logged here; raises its FastBertErrors."""
    start_ray()
    gpus = min(1.0, cluster_resources().get("GPU", 0.0))
    if not gpus:
        return apart(function, *arguments)
    found: Any = None
    with faults_of_ray():
        for reference in _task(gpus).remote(function, arguments):
            found = ray.get(reference)
            if isinstance(found, logging.LogRecord):
                logging.getLogger(found.name).handle(found)
    if isinstance(found, FastBertError):
        raise found
    return found


def _task(gpus: float) -> Any:
    return ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_logged)


def _logged(function: str, arguments: tuple[Any, ...]) -> Iterator[Any]:
    """Log records of a function; the last item is its result, or the FastBertError that it
    raises."""
    said: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
    root = logging.getLogger()
    root.addHandler(QueueHandler(said))  # makes records that can be pickled
    root.setLevel(logging.INFO)
    quiet_transformers()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(resolve_name(function), *arguments)
        work.add_done_callback(lambda _: said.put(None))
        while (record := said.get()) is not None:
            yield record
        try:
            yield work.result()
        except FastBertError as error:
            yield error


@contextlib.contextmanager
def _started(what: str, advice: str) -> Iterator[None]:
    """Turn the errors of Ray's start, of many kinds, into one line."""
    try:
        yield
    except FastBertError:
        raise
    except Exception as error:
        raise FastBertError(f"{what}: {first_line(error)}; {advice}") from error


def check_address(address: str) -> None:
    """Raises InputError if it is not an address of a cluster, and FastBertError if nothing answers
    there: Ray itself would retry for an hour."""
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
    """Turn failures of processes, nodes and disks of the cluster into a FastBertError of one line;
    a bug in a stage keeps its traceback."""
    try:
        yield
    except _FAULTS as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        full = [line for line in lines if os.strerror(errno.ENOSPC) in line]
        if isinstance(error, RayTaskError) and not full:
            raise
        said = full[-1] if full else lines[-1] if "creation task" in lines[0] else lines[0]
        raise FastBertError(
            f"Ray cannot continue: {said}; what is committed is kept, run again"
        ) from error


def bear_standstill(seconds: float) -> None:
    """Set how long Ray Data waits, in releases that end a job without progress."""
    context = DataContext.get_current()
    if hasattr(context, "execution_no_progress_timeout_s"):
        context.execution_no_progress_timeout_s = seconds


def cluster_resources() -> dict[str, float]:
    """Present resources of the cluster: "CPU" and, if it has any, "GPU"."""
    return dict(ray.cluster_resources())


def cores_of_nodes() -> list[int]:
    """The CPU cores of each node, as far as Ray may use them.

    For this process's node, at most its real cores, because `start_ray` gives Ray more.
    """
    here = ray.get_runtime_context().get_node_id()
    sizes = {
        node["NodeID"]: int(node["Resources"].get("CPU", 0))
        for node in ray.nodes()
        if node["Alive"]
    }
    return [min(size, cores()) if node == here else size for node, size in sizes.items()]
