"""A stage in a child process, and the driver's handle of it.

Two pipes join them. On one, slices go in and out, pickled, as bytes that the driver passes on
without a look. On the other, the child says what it begins and ends, which the driver counts
(`guard.py`): counts must outlive the child. Only this driver and its children hold these pipes.
"""

import contextlib
import faulthandler
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from logging.handlers import QueueHandler
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pkgutil import resolve_name
from queue import SimpleQueue
from typing import Any, NoReturn

from setproctitle import setproctitle

from fastbert.errors import FastBertError
from pipelines.children import SPAWN, end_with_driver
from pipelines.labelling.work import Work, packed, unpacked
from pipelines.running.guard import Guard
from pipelines.running.stages import STARTING, Stage, dead_on_arrival

log = logging.getLogger(__name__)


class Child:
    """A process of a stage, which imports its modules while it has no work. If it dies, another one
    takes its place."""

    def __init__(self, number: int, stage: type[Stage], limit: int) -> None:
        """Later calls raise FastBertError once `limit` processes in a row have died without a
        message."""
        self.name, self.stage, self.limit = f"{stage.doing} {number}", stage, limit
        #: Items given and not answered; it works on the first.
        self.given: deque[bytes] = deque()
        self._silent = 0  # deaths in a row before the first message
        self._first: bytes | None = None
        self._process: BaseProcess
        self._start()

    def call(self, function: str, *arguments: Any) -> Any:
        """The result of a function in the child, named "package.module:function"; raises its
        FastBertErrors. Only before the stage is made."""
        request = packed((function, arguments))
        self._send(request)
        while True:
            wait([self._items, self._process.sentinel])
            try:
                found, logged = unpacked(self._items.recv_bytes())
                self._spoke = True
                break
            except (EOFError, OSError):
                self._replace()
                self._send(request)
        for record in logged:
            logging.getLogger(record.name).handle(record)
        if isinstance(found, FastBertError):
            raise found
        return found

    def begin(self, arguments: tuple[Any, ...], guard: Guard) -> None:
        """Make the stage. `guard.attempts` are the driver's; `arguments` are those of the stage."""
        self.guard = guard
        self._first = packed((None, (guard.limit, guard.timeout, arguments)))
        self._send(self._first)

    def _start(self) -> None:
        self._items, items = SPAWN.Pipe()
        self._words, words = SPAWN.Pipe()
        self._spoke = False
        self._process = SPAWN.Process(
            target=serve, args=(items, words, self.stage, self.name), name=self.name, daemon=True
        )
        # Block Ctrl-C, which also goes to children: the driver ends them. Start the tracker first,
        # because its start unblocks the signal.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        items.close()
        words.close()
        if self._first is not None:
            self._send(self._first)

    def _send(self, data: bytes) -> None:
        # If it is dead, `answers` will find that.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._items.send_bytes(data)

    def waited_for(self) -> list[Any]:
        """Objects that become ready when `answers` has something to do."""
        return [self._words, self._process.sentinel]

    def give(self, item: bytes) -> None:
        """Give it a slice to work on, pickled."""
        self.given.append(item)
        self._send(item)

    def answers(self) -> Iterator[tuple[bool, bytes]]:
        """New answers, pickled, and for each whether it is a slice for the next stage.

        Also answers its questions. If it has died, starts another one with the same items; raises
        FastBertError if that fails.
        """
        dead = not self._process.is_alive()  # first, so that its last messages are still read below
        try:
            while self._words.poll():
                word, *rest = self._words.recv()
                self._spoke = True
                if word == "answer":
                    data = self._items.recv_bytes()
                    self.given.popleft()
                    yield rest[0], data
                elif word in ("end", "advance"):  # which need no answer
                    getattr(self.guard.attempts, word)(*rest)
                else:
                    self._words.send(getattr(self.guard.attempts, word)(*rest))
        except (EOFError, OSError):
            dead = True
        if dead:
            self._replace()

    def _replace(self) -> None:
        self.end()
        self._silent = 0 if self._spoke else self._silent + 1
        if self._silent >= self.limit:
            raise dead_on_arrival(self.stage.doing, self._silent)
        log.warning(
            "the process for %s ended (%s); another one takes its place",
            *(self.stage.doing, how(self._process.exitcode)),
        )
        given, self.given = self.given, deque()
        self._start()
        for item in given:
            self.give(item)

    def end(self) -> None:
        """Kill it, and wait until it has ended."""
        self._process.kill()
        self._process.join()
        self._items.close()
        self._words.close()


def how(exitcode: int | None) -> str:
    """An exit code in words."""
    if exitcode is not None and exitcode < 0:
        return signal.strsignal(-exitcode) or f"signal {-exitcode}"
    return f"exit code {exitcode}"


class AttemptsOfDriver:
    """`Attempts` that the driver keeps."""

    def __init__(self, words: Connection) -> None:
        self._words = words

    def _ask(self, *word: str) -> int:
        self._words.send(word)
        answer: int = self._words.recv()
        return answer

    def failed(self, what: str, stage: str) -> int:
        """As in `Counts`."""
        return self._ask("failed", what, stage)

    def begin(self, what: str, stage: str) -> int:
        """As in `Counts`."""
        return self._ask("begin", what, stage)

    def end(self, what: str, stage: str) -> None:
        """As in `Counts`."""
        self._words.send(("end", what, stage))

    def advance(self, what: str, rows: float) -> None:
        """As in `Counts`."""
        self._words.send(("advance", what, rows))


def serve(items: Connection, words: Connection, stage: type[Stage], name: str) -> NoReturn:
    """What a child does until its driver ends."""
    end_with_driver()
    setproctitle(f"fastbert: {name}")
    os.dup2(2, 1)  # stdout is for the summary
    arrived: SimpleQueue[bytes] = SimpleQueue()
    # The next slice arrives while the model works on this one.
    threading.Thread(target=_receive, args=(items, arrived), daemon=True).start()
    faulthandler.dump_traceback_later(STARTING, exit=True)
    stage.load()
    faulthandler.cancel_dump_traceback_later()
    while (request := unpacked(arrived.get()))[0]:
        items.send_bytes(packed(_called(*request)))
    _, (limit, timeout, arguments) = request
    at_work = stage(Guard(AttemptsOfDriver(words), limit, timeout), name, *arguments)
    while True:
        answer = at_work(unpacked(arrived.get()))
        data = packed(answer)
        words.send(("answer", isinstance(answer, Work)))
        items.send_bytes(data)


def _called(function: str, arguments: tuple[Any, ...]) -> tuple[Any, list[logging.LogRecord]]:
    """Its result or the FastBertError that it raised, and its log records."""
    logged: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(logged)  # makes records that can be pickled
    logging.getLogger().addHandler(handler)
    try:
        found = resolve_name(function)(*arguments)
    except FastBertError as error:
        found = error
    finally:
        logging.getLogger().removeHandler(handler)
    return found, [logged.get() for _ in range(logged.qsize())]


def _receive(items: Connection, arrived: "SimpleQueue[bytes]") -> None:
    with contextlib.suppress(EOFError):  # the driver has ended, and so does this process
        while True:
            arrived.put(items.recv_bytes())
