"""One run at a time: a lock object in the output, with an owner and a heartbeat.

Clocks of different machines are not compared: a run that finds a lock watches whether it changes.
The owner changes it every `beat` seconds. If it has not changed for `expiry` seconds, or if its
owner was a process of this machine that has ended, the run takes it over.

Creating an object only if it is absent is atomic on local disks and on the large clouds' stores. On
other stores, two runs that start at the same moment may both succeed. Therefore each reads the lock
again after `settle` seconds, when the last writer has won, except a run that created it by a link
on a local disk; and every commit checks it again.

An outage of the store may last longer than `expiry`: if the lock is still this run's afterwards,
the run renews it and continues.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import FastBertError
from fastbert.filesystem import redacted
from pipelines.output.storage import Created, Storage

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Path of the lock, below the output root.
LOCK = "ledger/lock.json"


class LockLost(FastBertError):
    """The lock no longer belongs to this run."""


class OutputHeld(LockLost):
    """Another run holds the output; this is no fault of either (exit code 4)."""

    exit_code = 4


class RunLock:
    """The lock of an output, for one run. Always `release` after `acquire`, even if it raises."""

    def __init__(
        self,
        storage: Storage,
        run_id: str,
        beat: float = 10.0,
        expiry: float = 60.0,
        settle: float | None = None,
    ) -> None:
        """Times are in seconds; `settle` must exceed the time until a write is visible."""
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
        self._lost: LockLost | None = None
        self._requests = ThreadPoolExecutor(1, "run lock")
        self._requests.submit(int)  # starts the thread before an interrupt is possible
        self._done = threading.Event()
        self._heart = threading.Thread(target=self._keep, name="heartbeat", daemon=True)

    def acquire(self) -> "RunLock":
        """Take the lock; raises OutputHeld if another live run holds it."""
        tries_end = time.monotonic() + self.expiry
        while (created := self._asked(self.storage.create, LOCK, self._content())) is Created.NOT:
            other = read_lock(self.storage)
            if other is None:  # released meanwhile
                if time.monotonic() > tries_end:
                    raise FastBertError(
                        f"{_place(self.storage)} can neither be created nor read; inspect the "
                        "object there, and remove it"
                    )
                time.sleep(self._pause)
            elif other.get("token") == self.token or self._gone(other):
                self._asked(self.storage.put, LOCK, self._content())
                break
        if created is not Created.ALONE:
            time.sleep(self.settle)
            self._asked(self._look)
        self._renewed = time.monotonic()
        self._heart.start()
        return self

    def release(self) -> None:
        """Remove the lock, if it is this run's. May be called again, or without a lock."""
        self._done.set()
        try:
            self._asked(self._remove)
        except (OSError, FastBertError) as error:
            if self._renewed:  # otherwise there is no lock
                log.warning(
                    "could not remove the run lock, which expires after %g s: %s",
                    *(self.expiry, error),
                )

    def check(self) -> None:
        """Raises OutputHeld if another run has taken over the output, FastBertError if the lock is
        gone or the store does not answer. A past outage does no harm."""
        if self._lost:
            raise self._lost
        if time.monotonic() - self._renewed > self.expiry:
            try:
                self._asked(self._renew)
            except (OSError, FastBertError) as error:
                if self._lost:
                    raise
                silent = time.monotonic() - self._renewed
                raise FastBertError(
                    f"the run lock could not be renewed for {silent:.0f} s: {error}"
                ) from error

    def _asked(self, request: Callable[..., T], *arguments: Any) -> T:
        """The store's answer. One thread makes all requests that change the lock, in turn: a
        request in progress when the run is stopped ends before the lock is removed."""
        return self._requests.submit(request, *arguments).result()

    def _look(self) -> None:
        try:
            check_held(self.storage, self.token)
        except LockLost as error:
            self._lost = error
            raise

    def _renew(self) -> None:
        if self._done.is_set():
            return
        self._look()
        self._beats += 1
        self.storage.put(LOCK, self._content())
        if time.monotonic() - self._renewed > self.expiry:
            # Another run may have taken over between reading and renewing: the last writer has won.
            time.sleep(self.settle)
            self._look()
        self._renewed = time.monotonic()

    def _remove(self) -> None:
        if holds(self.storage, self.token):
            self.storage.remove(LOCK)

    def _gone(self, other: dict[str, Any]) -> bool:
        """Whether the owner is dead; False if the lock changed hands meanwhile."""
        if _is_dead(other):
            log.info("taking over from %s, whose process has ended", _described(other))
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
                    f"{_described(now)} is working on this output; wait for it, or stop it first"
                )
        log.info("taking over from %s: no sign of life", _described(other))
        return True

    def _keep(self) -> None:
        while not self._lost and not self._done.wait(self.beat):
            try:
                self._asked(self._renew)
            except Exception as error:  # an outage: the next beat may succeed
                log.warning("could not renew the run lock: %s", error)

    def _content(self) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps(self._owner | {"beat": self._beats, "at": now}, indent=1).encode()


def holds(storage: Storage, token: str) -> bool:
    """Whether the run with this token still owns the output."""
    return (read_lock(storage) or {}).get("token") == token


def check_held(storage: Storage, token: str) -> None:
    """Raises OutputHeld if another run holds the output, LockLost if no run does."""
    lock = read_lock(storage)
    if not lock:
        raise LockLost(
            f"the run lock {_place(storage)} {'is gone' if lock is None else 'cannot be read'}, "
            "expected this run's: another process changed it; what is committed is kept: run again"
        )
    if lock.get("token") != token:
        raise OutputHeld(f"this run lost the output to {_described(lock)}, and stops")


def read_lock(storage: Storage) -> dict[str, Any] | None:
    """The lock's content; None if there is no lock, empty if it cannot be read."""
    data = storage.read([LOCK]).get(LOCK)
    try:
        return None if data is None else msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError):
        return {}


def _place(storage: Storage) -> str:
    return f"{redacted(storage.url)}/{LOCK}"


def _described(lock: dict[str, Any] | None) -> str:
    if not lock:
        return "another run"
    return f"run {lock.get('run_id')} on {lock.get('host')} (process {lock.get('pid')})"


def _machine() -> str | None:
    """An id that is equal for all processes that see each other, and changes with a restart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: then only the heartbeat counts
        return None


def _started(pid: object) -> int | None:
    """Start of the process, in clock ticks; None if it has ended. Needed because ids are reused."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _is_dead(lock: dict[str, Any]) -> bool:
    here = bool(lock.get("machine")) and lock["machine"] == _machine()
    return here and _started(lock.get("pid")) != lock.get("started")
