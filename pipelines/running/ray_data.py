"""The three stages on Ray Data: one slice = one row = one block = one task.

    slices -> ReadTokenize (CPU) -> Label (model replicas) -> Commit (CPU) -> records

The driver sees records, never rows. Processes may die at any moment: Ray runs their slice again in
another one. A slice that does so every time is given up after some attempts.
"""

import faulthandler
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from fastbert.errors import InputError
from pipelines.input.columns import InputColumns
from pipelines.input.slices import Slice
from pipelines.labelling.commit import Commit
from pipelines.labelling.work import Work
from pipelines.output.ledger import Record, slice_id
from pipelines.running.cluster import cluster_resources, cores
from pipelines.running.guard import Attempts
from pipelines.running.quiet import quiet_transformers
from pipelines.settings import LabelSettings

if TYPE_CHECKING:
    from fastbert.exits.operating_point import OperatingPoint

#: CPUs a commit asks for: it encodes Parquet for moments and waits for the store most of the time.
_COMMIT_CPUS = 0.25
#: Slices an actor works on or has waiting. Ray's default, 2, leaves it idle for the length of one
#: scheduling round whenever a slice takes less time than that; more would hold back slices that
#: another replica could take.
_SLICES_PER_ACTOR = 4
#: Seconds that processes may take to begin, each time that one has died; busy machines need them.
_STARTING = 300


def run_stages(
    slices: list[Slice],
    settings: LabelSettings,
    point: "OperatingPoint",
    max_length: int,
    columns: InputColumns,
    commit: Commit,
    share: "Share",
) -> Iterator[Record | Work]:
    """Run the slices through the stages on Ray; yields a Record for each committed slice, and the
    Work of each slice that could not be read."""
    low, high = (min(replicas, len(slices)) for replicas in settings.replica_range())

    def pool(low: int, high: int, start: int) -> ActorPoolStrategy:
        return ActorPoolStrategy(
            min_size=low,
            max_size=high,
            initial_size=start,
            max_tasks_in_flight_per_actor=_SLICES_PER_ACTOR,
        )

    # Ray kills a whole job without progress; here what hangs is ended before that.
    tries = settings.slice_attempts
    longest_start = max(settings.slice_timeout, _STARTING)
    DataContext.get_current().execution_no_progress_timeout_s = (
        tries * longest_start + (2 * tries + 2) * settings.slice_timeout
    )
    attempts = f"attempts of {commit.run_id}"
    counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts)
    alive: Any = counter.options(name=attempts).remote()  # it lives as long as this handle
    guard = Guard(attempts, tries, settings.slice_timeout)
    checkpoint = commit.recipe["checkpoint"]
    # Not `from_arrow`: it runs a task per block.
    rows = [Work(piece).to_row() for piece in slices]
    data = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map_batches(
            ReadTokenizeActor,
            fn_constructor_args=(guard, settings.model, max_length, columns, checkpoint),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=share.reader_cpus,
            compute=pool(1, share.readers, 1),
        )
        .map_batches(
            LabelActor,
            fn_constructor_args=(
                guard,
                settings.model,
                point,
                settings.audit_rate,
                settings.precision,
                share.replica_cpus,
                share.replica_gpus > 0,
                checkpoint,
            ),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=share.replica_cpus,
            num_gpus=share.replica_gpus or None,
            compute=pool(low, high, high),
        )
        .map_batches(
            CommitActor,
            fn_constructor_args=(guard, commit),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=_COMMIT_CPUS,
            compute=pool(1, high, 1),
        )
    )
    try:
        for row in data.iter_rows():
            if row["record"] is None:
                yield Work.from_block(pa.table({"work": [row["work"]], "payload": [b""]}))
            else:
                yield Record(**json.loads(row["record"]))
    finally:
        ray.kill(alive)


@dataclass(frozen=True)
class Share:
    """Who gets what of a cluster."""

    replica_gpus: float  # each
    replica_cpus: int  # each
    readers: int  # at most
    reader_cpus: float  # each


def share_of_cluster(settings: LabelSettings) -> Share:
    """`share_out` for the cluster at hand, which is started if need be."""
    return share_out(settings, cluster_resources(), cores())


def share_out(settings: LabelSettings, resources: dict[str, float], machine_cores: int) -> Share:
    """Divide the cluster between replicas and readers; InputError if it is too small.

    With GPUs, tokenizing is what may fall behind: readers get all the cores that are left. On
    CPUs the model is slower than any tokenizer by far: replicas get the cores, and one reader per
    replica works beside them. Three pools of actors: Ray never fuses those, so tokenizing stays
    out of the replica.
    """
    low, high = settings.replica_range()
    cpus = resources.get("CPU", 0.0)
    gpus = settings.gpus_per_replica
    if gpus is None:
        gpus = 1.0 if resources.get("GPU") else 0.0
    if gpus:
        reader_cpus, replica_cpus = 1.0, settings.cpus_per_replica or 1
        # A cluster that grows with the work shows few CPUs yet: allow some readers per replica.
        readers = max(4 * high, int(cpus - high * replica_cpus - _COMMIT_CPUS))
    else:
        reader_cpus = 0.5
        fair = min(machine_cores, int(cpus - reader_cpus - _COMMIT_CPUS)) // high
        replica_cpus = settings.cpus_per_replica or max(1, fair)
        readers = high
    needed = low * replica_cpus + reader_cpus + _COMMIT_CPUS
    if needed > cpus and not gpus:  # a GPU cluster may be about to grow
        raise InputError(
            f"the cluster has {cpus:g} CPUs, {low} replicas of {replica_cpus} CPUs with a reader "
            f"need {needed:g}; lower --replicas or --cpus-per-replica, or use a larger cluster"
        )
    return Share(gpus, replica_cpus, readers, reader_cpus)


@dataclass(frozen=True)
class Guard:
    """Counts the attempts at a slice, and ends the process of one that takes too long."""

    #: The name of an actor `Attempts`. Not its handle: Ray would put what holds one into its object
    #: store, and could not start an actor again once that is lost.
    actor: str
    limit: int
    timeout: float  # seconds

    @cached_property
    def attempts(self) -> Any:
        """The handle."""
        return ray.get_actor(self.actor)

    @contextmanager
    def attempt(self, what: str, stage: str, at_least: float = 0.0) -> Iterator[int]:
        """An attempt at `what`; gives how many before it have ended their process.

        It has `timeout` seconds, or `at_least` so many.
        """
        failed: int = ray.get(self.attempts.begin.remote(what, stage))
        # A thread of C: it works while Python hangs in a call that does not let go of it.
        faulthandler.dump_traceback_later(max(self.timeout, at_least), exit=True)
        try:
            yield failed
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.attempts.end.remote(what, stage)


class OnBlocks(ABC):
    """A stage as an actor of Ray Data: made once per actor, called with one slice at a time.

    `make` imports what the stage needs: every worker process imports this module, and those that
    commit need not wait for torch, nor hold it.
    """

    doing: str

    def __init__(self, guard: Guard, *arguments: Any) -> None:
        self.guard = guard
        me = ray.get_runtime_context().get_actor_id()  # the same when Ray starts it again
        # A model takes its time to load, however small the slices.
        with guard.attempt(f"the start of {me}", self.doing, at_least=_STARTING) as failed:
            if failed >= guard.limit:
                raise RuntimeError(f"the process for {self.doing} died {failed} times at its start")
            quiet_transformers()
            self.stage = self.make(*arguments)

    @abstractmethod
    def make(self, *arguments: Any) -> Any:
        """The stage."""

    def __call__(self, block: pa.Table) -> pa.Table:
        """One slice in, one slice out."""
        work = Work.from_block(block)
        with self.guard.attempt(name_of(work.slice), self.doing) as failed:
            reason = (
                f"given up: {self.doing} its slice ended the process {failed} times (a crash, too "
                f"little memory, or more than {self.guard.timeout:g} s)"
            )
            if failed < self.guard.limit:
                done = self.stage(work)
            elif failed < 2 * self.guard.limit:
                done = self.stage.give_up(work, reason)
            else:  # even that kills
                done = Work(work.slice, failure=reason)
            retries = (done.measured or {}).get("retries", 0) + failed
            block = done.with_measured(retries=retries).to_block()
        return block


class ReadTokenizeActor(OnBlocks):
    """`ReadTokenize` under the name that Ray's dashboard shows."""

    doing = "reading"

    def make(self, *arguments: Any) -> Any:
        from pipelines.labelling.read import ReadTokenize

        return ReadTokenize(*arguments)


class LabelActor(OnBlocks):
    """`Label` under the name that Ray's dashboard shows."""

    doing = "labelling"

    def make(self, *arguments: Any) -> Any:
        from pipelines.labelling.classify import Label

        return Label(*arguments)


class CommitActor:
    """`Commit` at the end of the plan: a labelled slice in, its record out.

    An actor although it keeps no state: as tasks, commits would start ever more worker processes,
    and each has to import what this module needs before its first slice.
    """

    def __init__(self, guard: Guard, commit: Commit) -> None:
        self.guard = guard
        self.commit = commit

    def __call__(self, block: pa.Table) -> pa.Table:
        """The slice as it came, without its rows, and the record: null if it was not committed."""
        work = Work.from_block(block)
        with self.guard.attempt(name_of(work.slice), "committing") as failed:
            if failed >= self.guard.limit:
                raise RuntimeError(
                    f"publishing {work.slice.path} ended the process {failed} times (a crash, too "
                    f"little memory, or more than {self.guard.timeout:g} s): is the store there?"
                )
            retries = (work.measured or {}).get("retries", 0) + failed
            record = self.commit(work.with_measured(retries=retries))
        text = json.dumps(asdict(record)) if record else None
        return pa.table({"work": block["work"], "record": pa.array([text], pa.string())})


def name_of(piece: Slice) -> str:
    """The name of a slice in the ledger."""
    return slice_id(piece.shard.name, piece.first_row)
