"""Signals that stop a run."""

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from fastbert.errors import Stopped

T = TypeVar("T")

#: Seconds until a signal is repeated, because a library may swallow its exception.
_AGAIN = 0.3


class Stops:
    """Handlers of SIGTERM, by which schedulers and Ray stop a job, and Ctrl-C. Both raise Stopped
    in a run's work, and neither interrupts its end."""

    def __init__(self) -> None:
        self._come: int | None = None
        self._raising = True
        self._ended = threading.Event()
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Set the handlers; again after calls that may have set others. Only the main thread
        can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for each in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(each)
            if each == signal.SIGTERM or before != signal.SIG_IGN:  # nohup, a shell's `&`
                signal.signal(each, self._stop)
                self._before.setdefault(each, before)

    def during(self, work: Callable[[], T], end: Callable[[], None]) -> T:
        """The result of `work`; `end` is always called after it, without interruption.

        Raises Stopped if a signal came, also one that came in `end`.
        """
        insisting = threading.Thread(
            target=self._insist, args=(threading.get_ident(),), name="signals", daemon=True
        )
        insisting.start()
        try:
            self.listen()
            return work()
        finally:
            # CPython runs handlers at calls, backward jumps and function starts, so never between
            # here and the end of the work. A context manager's `__exit__` is a function.
            self._raising = False
            try:
                self.listen()
                end()
            finally:
                self._ended.set()
                insisting.join()
                for each, handler in self._before.items():
                    signal.signal(each, handler)
            if self._come is not None:
                raise self._stopped()

    def _stop(self, number: int, _: object) -> None:
        self._come = number
        if self._raising:
            raise self._stopped()

    def _stopped(self) -> Stopped:
        name = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}[signal.Signals(self._come or 0)]
        stopped = Stopped(
            f"stopped by {name}; what is finished is kept, whole slices (--slice-rows) and learnt "
            "exits, and the next run does the rest"
        )
        if self._come == signal.SIGINT:
            stopped.exit_code = 130  # as in other commands
        return stopped

    def _insist(self, listener: int) -> None:
        while not self._ended.wait(_AGAIN):
            if self._come is not None and self._raising:
                # To one thread: another could take it late, when the handlers are back.
                signal.pthread_kill(listener, self._come)
