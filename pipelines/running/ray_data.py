"""The three stages on Ray Data: one slice = one row = one block = one task.

    slices -> ReadTokenize (CPU) -> Classify (model replicas) -> Commit (CPU) -> records

The driver sees records, never rows. `stages.py` describes what happens to slices whose processes
die.
"""

import threading
import time
from collections.abc import Generator, Iterator
from functools import cached_property
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError
from ray.util.metrics import Counter
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fastbert.errors import FastBertError
from pipelines.input.slices import Slice, streams
from pipelines.labelling.metrics import Metrics
from pipelines.labelling.run import Resources, Run
from pipelines.labelling.work import ITEM, Outcome, Work, from_block, packed, to_block, unpacked
from pipelines.output.record import Record
from pipelines.running.cluster import bear_standstill
from pipelines.running.guard import Attempts, Guard
from pipelines.running.stages import STAGES, STARTING, Stage

#: Slices that an actor works on or has waiting. With Ray's default, 2, it is idle for one
#: scheduling round whenever a slice takes less time than that; more would hold back slices that
#: another replica could take.
_SLICES_PER_ACTOR = 4
#: Seconds for Ray Data's threads to end; one, which makes no calls to Ray, never does.
_LAST_MOMENTS = 3.0
#: Seconds to wait for the progress of slices.
_PATIENCE = 5.0


def run_stages(
    run: Run,
    slices: list[Slice],
    resources: Resources,
    stages: tuple[type[Stage], ...] = STAGES,
) -> Generator[Outcome, None, None]:
    """Run the slices through the stages on Ray; yields what becomes of each.

    Raises FastBertErrors as the stages do. Closing it ends the actors, except in older releases of
    Ray, where only the driver's end does.
    """
    low, high = min(resources.low, len(slices)), min(resources.high, len(slices))
    tries, timeout = resources.attempts, resources.timeout
    # The guard ends hung calls before that.
    bear_standstill(2 * tries * max(timeout, STARTING) + (3 * tries + 2) * timeout)
    name = attempts_of(run)
    attempts = start_attempts(name)
    guard = Guard(AttemptsOfActor(name), tries, timeout)
    metrics = RayMetrics(run.output, Counter)

    operators: list[tuple[type, tuple[Any, ...], float, tuple[int, int, int]]] = [
        (ReadTokenizeActor, (), resources.reader_cpus, (1, resources.readers, 1)),
        (
            ClassifyActor,
            (resources.replica_cpus, resources.device == "cuda"),
            resources.replica_cpus,
            (low, high, high),
        ),
        (CommitActor, (), resources.commit_cpus, (1, high, 1)),
    ]
    # A slice is a row, and a row a block: otherwise slices of one stream would wait for each other.
    DataContext.get_current().target_max_block_size = 1
    # Not `from_arrow`: it runs a task per block.
    rows = [{ITEM: packed([Work(piece) for piece in stream])} for stream in streams(slices)]
    data: Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for stage, (actor, arguments, cpus, (least, most, first)) in zip(
        stages, operators, strict=True
    ):
        data = data.map_batches(
            actor,
            fn_constructor_args=(stage, guard, run, *arguments),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=cpus,
            num_gpus=(resources.replica_gpus or None) if actor is ClassifyActor else None,
            compute=ActorPoolStrategy(
                min_size=least,
                max_size=most,
                initial_size=first,
                max_tasks_in_flight_per_actor=_SLICES_PER_ACTOR,
            ),
        )
    before, ended = {*threading.enumerate()}, False
    try:
        for row in data.iter_rows():
            outcome = unpacked(row[ITEM])
            if isinstance(outcome, FastBertError):
                raise outcome
            if isinstance(outcome, Record):
                metrics.add(outcome)
            yield outcome
        ended = True
    finally:
        ray.kill(attempts)
        if not ended:
            # Ray Data's threads continue for a moment. One that calls Ray after its shutdown ends
            # the driver, with status 1.
            latest = time.monotonic() + _LAST_MOMENTS
            for thread in {*threading.enumerate()} - before:
                thread.join(max(0.0, latest - time.monotonic()))


def attempts_of(run: Run) -> str:
    """The name of the actor that keeps a run's `Attempts`."""
    return f"attempts of {run.run_id}"


class RayMetrics(Metrics):
    """The counters as the cluster exports them; Ray adds `ray_` to their names."""

    def count(self, name: str, amount: float, tags: dict[str, str]) -> None:
        """As in `Metrics`."""
        if amount:  # Ray refuses to add 0
            self.counters[name].inc(amount, tags)


def start_attempts(name: str) -> Any:
    """An actor `Attempts` of this name; it lives as long as this handle. It stays on the driver's
    node, so that its counts are not lost with a node of a stage."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(Attempts).options(name=name, scheduling_strategy=here, **options).remote()


class AttemptsOfActor:
    """`Attempts` that an actor keeps."""

    def __init__(self, name: str) -> None:
        # The name, not its handle: Ray would put arguments with a handle into its object store, and
        # could not restart an actor if that is lost.
        self.name = name

    @cached_property
    def _actor(self) -> Any:
        return ray.get_actor(self.name)

    def failed(self, what: str, stage: str) -> int:
        """As in `Counts`."""
        failed: int = ray.get(self._actor.failed.remote(what, stage))
        return failed

    def begin(self, what: str, stage: str) -> int:
        """As in `Counts`."""
        failed: int = ray.get(self._actor.begin.remote(what, stage))
        return failed

    def end(self, what: str, stage: str) -> None:
        """As in `Counts`."""
        self._actor.end.remote(what, stage)

    def advance(self, what: str, rows: float) -> None:
        """As in `Counts`."""
        self._actor.advance.remote(what, rows)

    def under_way(self) -> float:
        """As in `Attempts`; 0 if the actor is missing or busy."""
        try:
            rows: float = ray.get(self._actor.under_way.remote(), timeout=_PATIENCE)
        except (ValueError, RayError):
            return 0.0
        return rows


class OnBlocks:
    """A stage as an actor of Ray Data, under the name that Ray's dashboard shows."""

    def __init__(self, stage: type[Stage], guard: Guard, *arguments: Any) -> None:
        me: Any = ray.get_runtime_context().get_actor_id()  # the same when Ray restarts it
        self.stage = stage(guard, me, *arguments)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Call the stage on a block of one item."""
        return to_block(self.stage(from_block(block)))


class ReadTokenizeActor(OnBlocks):
    """First."""

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Call the stage on a block of one stream of slices."""
        for work in from_block(block):
            yield to_block(self.stage(work))


class ClassifyActor(OnBlocks):
    """Second."""


class CommitActor(OnBlocks):
    """Third."""
