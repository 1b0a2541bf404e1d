"""One run at a time: a lock object in the output, with an owner and a heartbeat.

No clock is compared with another machine's: whoever finds a lock watches whether it changes. The
owner changes it every `beat` seconds; if it has not changed for `expiry` seconds, or if its owner
was a process of this machine that is gone, it is taken over.

Creating an object only if it is absent is atomic on local disks and on the large clouds' stores.
On stores where it is not, two runs that start in the same moment may both succeed. Therefore each
looks again after `settle` seconds, when the last writer has won, and every commit looks once more.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import FastBertError
from pipelines.output.storage import Storage

log = logging.getLogger(__name__)

#: Where the lock lies, below the output root.
LOCK = "ledger/lock.json"


class OutputHeld(FastBertError):
    """Another run is at work on the output; nothing is wrong with either (exit code 4)."""

    exit_code = 4


class RunLock:
    """Held while the context is open; raises OutputHeld if another run holds it and lives."""

    def __init__(
        self,
        storage: Storage,
        run_id: str,
        beat: float = 10.0,
        expiry: float = 60.0,
        settle: float | None = None,
    ) -> None:
        """Times are in seconds; `settle` must be longer than the store takes to show a write."""
        self.storage = storage
        self.beat, self.expiry = beat, expiry
        self._pause = min(1.0, beat / 4)
        local = isinstance(storage.fs, LocalFileSystem)
        self.settle = settle if settle is not None else 0.3 if local else 2.0
        self.token = uuid.uuid4().hex
        self._owner = {
            "token": self.token,
            "run_id": run_id,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
        }
        self._beats = 0
        self._renewed = 0.0
        self._lost = False
        self._done = threading.Event()
        self._heart = threading.Thread(target=self._keep, name="run lock", daemon=True)

    def __enter__(self) -> "RunLock":
        while not self.storage.create(LOCK, self._content()):
            other = read_lock(self.storage)
            if other is None:  # released in this moment
                time.sleep(self._pause)
            elif other.get("token") == self.token or self._gone(other):
                self.storage.put(LOCK, self._content())
                break
        self._renewed = time.monotonic()
        time.sleep(self.settle)
        self._lost = not holds(self.storage, self.token)
        self.check()
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._heart.join(self.beat)
        with contextlib.suppress(Exception):  # it expires by itself
            if holds(self.storage, self.token):
                self.storage.remove(LOCK)

    def check(self) -> None:
        """Raise OutputHeld if the lock was lost, or could not be renewed for too long."""
        if self._lost or time.monotonic() - self._renewed > self.expiry:
            other = read_lock(self.storage)
            raise OutputHeld(f"this run has lost the output to {_described(other)}; it stops here")

    def _gone(self, other: dict[str, Any]) -> bool:
        """Whether the owner is dead; False if the lock changed hands meanwhile."""
        if _is_dead(other):
            log.info("taking over from %s, which is gone", _described(other))
            return True
        log.info("%s holds the output; watching for %g s", _described(other), self.expiry)
        deadline = time.monotonic() + self.expiry
        while time.monotonic() < deadline:
            time.sleep(self._pause)
            now = read_lock(self.storage)
            if now is None:
                return False
            if now != other:
                raise OutputHeld(
                    f"{_described(now)} is at work on this output; wait for it, or stop it first"
                )
        log.info("taking over from %s: no sign of life", _described(other))
        return True

    def _keep(self) -> None:
        while not self._done.wait(self.beat):
            try:
                self._lost = not holds(self.storage, self.token)
                if self._lost:
                    return
                self._beats += 1
                self.storage.put(LOCK, self._content())
                self._renewed = time.monotonic()
            except Exception as error:  # an outage: the next beat may get through
                log.warning("could not renew the run lock: %s", error)

    def _content(self) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps(self._owner | {"beat": self._beats, "at": now}, indent=1).encode()


def holds(storage: Storage, token: str) -> bool:
    """Whether the run with this token still owns the output."""
    return (read_lock(storage) or {}).get("token") == token


def read_lock(storage: Storage) -> dict[str, Any] | None:
    """What the lock says; None if there is none. One that cannot be read has no owner."""
    data = storage.read([LOCK]).get(LOCK)
    try:
        return None if data is None else msgspec.json.decode(data, type=dict[str, Any])
    except ValueError:
        return {}


def _described(lock: dict[str, Any] | None) -> str:
    if not lock:
        return "another run"
    return f"run {lock.get('run_id')} on {lock.get('host')} (process {lock.get('pid')})"


def _machine() -> str | None:
    """The same for all processes that see each other's ids, different after a restart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: then only the heartbeat counts
        return None


def _started(pid: int) -> int | None:
    """When the process began, in clock ticks; None if it is gone. An id alone is used again."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _is_dead(lock: dict[str, Any]) -> bool:
    here = bool(lock.get("machine")) and lock["machine"] == _machine()
    return here and _started(int(lock["pid"])) != lock.get("started")
