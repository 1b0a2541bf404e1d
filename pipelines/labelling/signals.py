"""How a run is stopped from outside."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fastbert.errors import Stopped


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM, with which schedulers and Ray stop a job, raises Stopped; in the main thread only,
    others cannot have handlers."""

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    again: list[threading.Timer] = []

    def stop(*_: object) -> None:
        # The signal may arrive where some library swallows all exceptions.
        again.append(threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]))
        again[-1].start()
        raise Stopped("stopped by SIGTERM; what is committed is kept, the next run goes on")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for timer in again:
            timer.cancel()
        signal.signal(signal.SIGTERM, before)
