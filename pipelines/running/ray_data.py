"""The three stages on Ray Data: one slice = one row = one block = one task.

    slices -> ReadTokenize (CPU) -> Classify (model replicas) -> Commit (CPU) -> records

The driver sees records, never rows. Processes may die at any moment: Ray runs their slice again in
another one. A slice that does so every time is given up after some attempts, by a process that has
labelled known texts: where these fail, the machine is to blame, and the run ends.
"""

import os
import pickle
import sys
from collections.abc import Generator
from pkgutil import resolve_name
from typing import Any, NoReturn

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from fastbert.errors import FastBertError, MachineError
from pipelines.input.slices import Slice
from pipelines.labelling.run import Resources, Run
from pipelines.labelling.work import ITEM, Failed, Outcome, Work, from_block, from_item, to_block
from pipelines.output.ledger import Record, slice_id
from pipelines.running.guard import Attempts, Guard
from pipelines.running.metrics import Metrics
from pipelines.running.quiet import quiet_transformers

#: Slices an actor works on or has waiting. Ray's default, 2, leaves it idle for the length of one
#: scheduling round whenever a slice takes less time than that; more would hold back slices that
#: another replica could take.
_SLICES_PER_ACTOR = 4
#: Seconds that processes may take to begin, each time that one has died; busy machines need them.
_STARTING = 300


def run_stages(
    run: Run, slices: list[Slice], resources: Resources
) -> Generator[Outcome, None, None]:
    """Run the slices through the stages on Ray; yields what becomes of each.

    Raises FastBertErrors as the stages do. Closing it ends the actors.
    """
    low, high = min(resources.low, len(slices)), min(resources.high, len(slices))
    tries, timeout = resources.attempts, resources.timeout
    # Ray kills a whole job without progress; here what hangs is ended before that.
    longest_start = max(timeout, _STARTING)
    DataContext.get_current().execution_no_progress_timeout_s = (
        2 * tries * longest_start + (3 * tries + 2) * timeout
    )
    name = f"attempts of {run.run_id}"
    attempts = Attempts.start(name)
    guard = Guard(name, tries, timeout)
    metrics = Metrics(run.output)

    stages: list[tuple[type, tuple[Any, ...], float, tuple[int, int, int]]] = [
        (ReadTokenizeActor, (), resources.reader_cpus, (1, resources.readers, 1)),
        (
            ClassifyActor,
            (resources.replica_cpus, resources.device == "cuda"),
            resources.replica_cpus,
            (low, high, high),
        ),
        (CommitActor, (), resources.commit_cpus, (1, high, 1)),
    ]
    # Not `from_arrow`: it runs a task per block.
    rows = [{ITEM: pickle.dumps(Work(piece))} for piece in slices]
    data: Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for stage, arguments, cpus, (least, most, first) in stages:
        data = data.map_batches(
            stage,
            fn_constructor_args=(guard, run, *arguments),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=cpus,
            num_gpus=(resources.replica_gpus or None) if stage is ClassifyActor else None,
            compute=ActorPoolStrategy(
                min_size=least,
                max_size=most,
                initial_size=first,
                max_tasks_in_flight_per_actor=_SLICES_PER_ACTOR,
            ),
        )
    try:
        for row in data.iter_rows():
            outcome = from_item(row[ITEM])
            if isinstance(outcome, FastBertError):
                raise outcome
            if isinstance(outcome, Record):
                metrics.add(outcome)
            yield outcome
    finally:
        ray.kill(attempts)


class OnBlocks:
    """A stage as an actor of Ray Data, under the name that Ray's dashboard shows: made once per
    actor, called with one slice at a time."""

    doing: str
    #: What the stage is. By name, because every worker process imports this module, and those that
    #: commit need not wait for torch, nor hold it.
    stage_name: str

    def __init__(self, guard: Guard, *arguments: Any) -> None:
        self.guard = guard
        self.refused: FastBertError | None = None
        me = ray.get_runtime_context().get_actor_id()  # the same when Ray starts it again
        self.known = f"known texts on {me}"
        # A model takes its time to load, however small the slices.
        longest = max(guard.timeout, _STARTING)
        with guard.attempt(f"the start of {me}", self.doing, longest) as failed:
            quiet_transformers()
            try:
                if failed >= guard.limit:
                    raise FastBertError(
                        f"the process for {self.doing} died {failed} times at its start"
                    )
                self.stage = self.make(*arguments)
            except FastBertError as error:
                self.refused = error

    def make(self, *arguments: Any) -> Any:
        """The stage."""
        return resolve_name(self.stage_name)(*arguments)

    def __call__(self, block: pa.Table) -> pa.Table:
        """One slice in, one slice out, or what has become of it, or what was refused."""
        work = from_block(block)
        if not isinstance(work, Work):
            return block
        name = slice_id(work.slice.shard.name, work.slice.first_row)
        try:
            if self.refused is None:
                self.prove(name)
                with self.guard.attempt(name, self.doing) as failed:
                    try:
                        return to_block(self.done(work.retried(failed), failed))
                    except MachineError as error:
                        self.fail(error, self.guard.begin(self.known, self.doing))
                    except MemoryError as error:
                        leave(error)
        except FastBertError as error:
            self.refused = error
        return to_block(self.refused)

    def prove(self, name: str) -> None:
        """Show on known texts that this process works, before it takes a slice that has ended
        others. MachineError if as many in a row do not as a slice may end."""
        if not self.guard.failed(name, self.doing):
            return
        longest = min(self.guard.timeout, _STARTING)
        with self.guard.attempt(self.known, self.doing, longest) as failed:
            if failed >= self.guard.limit:
                raise MachineError(
                    f"{self.doing} known texts ended the process {failed} times, the last time on "
                    f"{os.uname().nodename} (a crash, too little memory, or more than "
                    f"{longest:g} s); no row is to blame: look at the machine, its memory and its "
                    "libraries, and run again; what is committed is kept"
                )
            try:
                self.stage.check()
            except MachineError as error:
                self.fail(error, failed)

    def fail(self, error: MachineError, failed: int) -> NoReturn:
        """Known texts have failed, and in `failed` processes before: the next one tries, or none
        does."""
        if failed + 1 < self.guard.limit:
            leave(error)
        raise error

    def done(self, work: Work, failed: int) -> Work | Outcome:
        """The slice after this stage, and `failed` attempts at it."""
        reason = (
            f"given up: {self.doing} its slice ended the process {failed} times (a crash, too "
            f"little memory, or more than {self.guard.timeout:g} s)"
        )
        found: Work | Outcome
        if failed < self.guard.limit:
            found = self.stage(work)
        elif failed < 2 * self.guard.limit:
            found = self.stage(work, reason)
        else:  # even that kills
            found = Failed(work.slice, reason)
        return found


def leave(error: BaseException) -> NoReturn:
    """End this process: what it was at counts as having done that, and another one tries it."""
    print(f"this process ends: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)


class ReadTokenizeActor(OnBlocks):
    """First."""

    doing, stage_name = "reading", "pipelines.labelling.read:ReadTokenize"


class ClassifyActor(OnBlocks):
    """Second."""

    doing, stage_name = "labelling", "pipelines.labelling.classify:Classify"


class CommitActor(OnBlocks):
    """Third: a labelled slice in, its outcome out.

    An actor although it keeps no state: as tasks, commits would start ever more worker processes,
    and each has to import what this module needs before its first slice.
    """

    doing, stage_name = "committing", "pipelines.labelling.commit:Commit"

    def prove(self, name: str) -> None:
        """It computes nothing."""

    def done(self, work: Work, failed: int) -> Outcome:
        """The outcome of a slice."""
        if failed >= self.guard.limit:
            raise FastBertError(
                f"publishing {work.slice.path} ended the process {failed} times (a crash, too "
                f"little memory, or more than {self.guard.timeout:g} s): is the store there?"
            )
        record: Record = self.stage(work)
        return record
