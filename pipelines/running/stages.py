"""The three stages as processes run them, on Ray or without it.

    slice -> Reading (CPU) -> Labelling (the model) -> Committing (CPU) -> record

Processes may die at any moment: their slice runs again in another one. A slice that ends its
process every time is given up after a few attempts, by a process that has labelled known texts: if
these fail, the machine is at fault, and the run ends.
"""

import os
import sys
import time
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any, NoReturn

from fastbert.errors import FastBertError, MachineError
from pipelines.labelling.work import Failed, Outcome, Work
from pipelines.output.record import Record, slice_id
from pipelines.running.guard import Guard
from pipelines.running.quiet import quiet_transformers

#: Seconds that a process may take to start after a death; busy machines need them.
STARTING = 300


class Stage:
    """One stage in a process of its own: made once, called with one slice at a time."""

    doing: str
    #: The stage's class, by name, because every process imports this module, and those that commit
    #: need not load torch.
    made_by: str

    def __init__(self, guard: Guard, process: str, *arguments: Any) -> None:
        """`process` names this process, and those that replace it if it dies."""
        self.guard = guard
        self.refused: FastBertError | None = None
        self.known = f"known texts on {process}"
        # A model takes time to load, however small the slices.
        longest = max(guard.timeout, STARTING)
        with guard.attempt(f"the start of {process}", self.doing, longest) as failed:
            try:
                if failed >= guard.limit:
                    raise dead_on_arrival(self.doing, failed)
                self.stage = self.make(*arguments)
            except FastBertError as error:
                self.refused = error

    @classmethod
    def load(cls) -> Callable[..., Any]:
        """The class of the stage; its import may take seconds."""
        quiet_transformers()
        found: Callable[..., Any] = resolve_name(cls.made_by)
        return found

    def make(self, *arguments: Any) -> Any:
        """The object that does the work."""
        return self.load()(*arguments)

    def __call__(self, item: Work | Outcome | FastBertError) -> Work | Outcome | FastBertError:
        """Take one slice; return the slice for the next stage, its outcome, or the error of the
        run."""
        if not isinstance(item, Work):
            return item
        name = slice_id(item.slice.shard.name, item.slice.first_row)
        try:
            if self.refused is None:
                self.prove(name)
                with self.guard.attempt(name, self.doing) as failed:
                    try:
                        return self.done(item.retried(failed), failed)
                    except MachineError as error:
                        self.fail(error, self.guard.attempts.begin(self.known, self.doing))
                    except MemoryError as error:
                        leave(error)
        except FastBertError as error:
            self.refused = error
        assert self.refused is not None
        return self.refused

    def prove(self, name: str) -> None:
        """Check on known texts that this process works, before it takes a slice that has ended
        others. Raises MachineError if that has ended as many in a row as a slice may end."""
        if not self.guard.attempts.failed(name, self.doing):
            return
        longest = min(self.guard.timeout, STARTING)
        with self.guard.attempt(self.known, self.doing, longest) as failed:
            if failed >= self.guard.limit:
                raise MachineError(
                    f"{self.doing} known texts ended the process {failed} times, the last time on "
                    f"{os.uname().nodename} (a crash, too little memory, or more than {longest:g} "
                    "s); no row is the cause: check the machine, its memory and its libraries, and "
                    "run again; what is committed is kept"
                )
            try:
                self.stage.check()
            except MachineError as error:
                self.fail(error, failed)

    def fail(self, error: MachineError, failed: int) -> NoReturn:
        """Known texts failed here and in `failed` processes before: let the next one try, or end
        the run."""
        if failed + 1 < self.guard.limit:
            leave(error)
        raise error

    def done(self, work: Work, failed: int) -> Work | Outcome:
        """The slice after this stage, given `failed` attempts at it."""
        reason = (
            f"given up: {self.doing} its slice ended the process {failed} times (a crash, too "
            f"little memory, or more than {self.guard.timeout:g} s)"
        )
        found: Work | Outcome
        if failed < self.guard.limit:
            found = self.stage(work)
        elif failed < 2 * self.guard.limit:
            found = self.stage(work, reason)
        else:  # even reading ends the process
            found = Failed(work.slice, reason)
        return found


def dead_on_arrival(doing: str, failed: int) -> FastBertError:
    """The error for processes that died `failed` times before their first slice."""
    return FastBertError(f"the process for {doing} died {failed} times at its start")


def leave(error: BaseException) -> NoReturn:
    """End this process: its slice counts as the cause, and another process tries it."""
    print(f"this process ends: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)


class Reading(Stage):
    """The first stage."""

    doing, made_by = "reading", "pipelines.labelling.read:ReadTokenize"


class Labelling(Stage):
    """The second stage."""

    doing, made_by = "labelling", "pipelines.labelling.classify:Classify"

    @classmethod
    def load(cls) -> Callable[..., Any]:
        """As above, with small caches in oneDNN and in torch's layer above it. Batches rarely have
        equal numbers of tokens, and in bf16 the cache of each is large: by default, 1,024 shapes,
        caches grow to 600 MB with a tiny model."""
        for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
            os.environ.setdefault(cache, "64")  # read when torch is imported
        return super().load()

    def make(self, *arguments: Any) -> Any:
        """As above; reports batches on the way."""
        made, self.reported = super().make(*arguments), time.monotonic()
        made.report = self.report
        return made

    def report(self, slice: str, rows: float) -> None:
        """Report how many rows of a slice are done, at most once a second."""
        if time.monotonic() - self.reported >= 1:
            self.reported = time.monotonic()
            self.guard.attempts.advance(slice, rows)


class Committing(Stage):
    """The third stage: a labelled slice in, its outcome out.

    A process although it keeps no state: as Ray tasks, commits would start ever more worker
    processes, each of which imports this module's dependencies before its first slice.
    """

    doing, made_by = "committing", "pipelines.labelling.commit:Commit"

    def prove(self, name: str) -> None:
        """Does nothing: commits compute nothing."""

    def done(self, work: Work, failed: int) -> Outcome:
        """The outcome of a slice."""
        if failed >= self.guard.limit:
            raise FastBertError(
                f"publishing {work.slice.path} ended the process {failed} times (a crash, too "
                f"little memory, or more than {self.guard.timeout:g} s): does the store answer?"
            )
        record: Record = self.stage(work)
        return record


#: The stages that an executor runs, in this order.
STAGES: tuple[type[Stage], ...] = (Reading, Labelling, Committing)
