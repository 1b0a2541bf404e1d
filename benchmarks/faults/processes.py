"""The processes of a job: finding them by what they do, and seeing them gone."""

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator

import psutil

_PR_SET_CHILD_SUBREAPER = 36

#: Kinds of processes, and how the title of each begins, on Ray and without; the driver is known by
#: its id. Without Ray, what still starts counts as a worker.
TITLES = {
    "replica": ("ray::MapWorker(MapBatches(ClassifyActor))", "fastbert: labelling"),
    "worker": (
        "ray::MapWorker(MapBatches(ReadTokenizeActor))",
        "ray::MapWorker(MapBatches(CommitActor))",
        "fastbert: reading",
        "fastbert: committing",
    ),
}
_STARTING = "multiprocessing.spawn"
KINDS = ("driver", "replica", "worker", "raylet")


class Family:
    """A driver and all that descends from it, also once it is dead.

    What a dead process leaves behind becomes our child (Linux calls that a subreaper), so that no
    descendant is ever lost sight of. Children that are here already do not belong to it.
    """

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._me = psutil.Process()
        self._others = {child.pid for child in self._me.children(recursive=True)}
        self.driver: subprocess.Popen[bytes] | None = None

    def members(self) -> list[psutil.Process]:
        """All that live; the dead are buried on the way."""
        return [p for p in self._me.children(recursive=True) if self._lives(p)]

    def _lives(self, process: psutil.Process) -> bool:
        if process.pid in self._others:
            return False
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                return True
            if process.ppid() == self._me.pid and not self._is_driver(process):
                os.waitpid(process.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            pass
        return False

    def _is_driver(self, process: psutil.Process) -> bool:
        return self.driver is not None and process.pid == self.driver.pid

    def of_kind(self, kind: str) -> list[psutil.Process]:
        """The members that are a `kind` now, by process id."""
        found = [p for p in self.members() if self._kind(p) == kind]
        return sorted(found, key=lambda p: int(p.pid))

    def _kind(self, process: psutil.Process) -> str | None:
        if self._is_driver(process):
            return "driver"
        try:
            if process.name() == "raylet":
                return "raylet"
            title = " ".join(process.cmdline())
        except psutil.Error:
            return None
        if _STARTING in title:
            return "worker"
        return next((kind for kind, names in TITLES.items() if title.startswith(names)), None)

    def wait_until_gone(self, seconds: float) -> list[str]:
        """Wait for all members to end; returns the names of those that had to be killed."""
        deadline = time.monotonic() + seconds
        while (left := self.members()) and time.monotonic() < deadline:
            time.sleep(0.1)
        names = [name for process in left for name in _name(process)]
        while left:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.1)
            left = self.members()
        return names


def _name(process: psutil.Process) -> Iterator[str]:
    with contextlib.suppress(psutil.Error):
        yield process.name()
