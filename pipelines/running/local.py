"""The executor on one machine: each stage in child processes of the driver, without Ray.

The driver only passes slices from stage to stage. Readers work ahead of the model as far as memory
allows.
"""

from collections import deque
from collections.abc import Generator, Iterator
from multiprocessing.connection import wait
from typing import Any

from fastbert.errors import FastBertError, InputError
from pipelines.input.slices import Slice, streams
from pipelines.labelling.run import Resources, Run
from pipelines.labelling.work import Outcome, Work, packed, unpacked
from pipelines.machine import cores
from pipelines.running.child import Child
from pipelines.running.guard import Attempts, Guard
from pipelines.running.stages import STAGES, Stage
from pipelines.settings import LabelSettings

#: Slices given to a process: it works on one, and the next is already there.
_GIVEN = 2
#: Most slices that wait for a stage, and bytes above which no further one is made.
_WAITING, _WAITING_BYTES = 2, 256 << 20


class LocalExecutor:
    """Runs the stages on this machine, with one replica on all its cores or its GPU."""

    def __init__(self, stages: tuple[type[Stage], ...] = STAGES) -> None:
        self.stages = stages
        self.crews: list[Crew] = []
        self.attempts = Attempts()

    def start(self, settings: LabelSettings) -> None:
        """Start a process of each stage, unless they exist."""
        if not self.crews:
            kinds = (Readers, *[Crew] * len(self.stages[1:]))
            made = zip(kinds, self.stages, strict=True)
            self.crews = [kind(stage, settings.slice_attempts) for kind, stage in made]

    def gpus(self) -> int:
        """How many torch sees, in the process that has it."""
        found: int = self.call("pipelines.machine:gpus")
        return found

    def resources(self, settings: LabelSettings) -> Resources:
        """Start, and divide the machine; raises InputError for settings that need Ray."""
        _, high = settings.replica_range()
        asked = settings.gpus_per_replica
        if high > 1 or (asked or 0) > 1:
            raise InputError(
                f"one replica with at most one GPU runs without Ray, found --replicas "
                f"{settings.replicas} and --gpus-per-replica {asked or 0:g}; pass --executor ray"
            )
        self.start(settings)
        on_gpu = bool(self.gpus() if asked is None else asked)
        cpus = settings.cpus_per_replica or (1 if on_gpu else cores())
        return Resources(
            low=1,
            high=1,
            replica_gpus=float(on_gpu),
            replica_cpus=cpus,
            # A GPU needs many tokenizing readers; beside a model on the same cores, one is enough.
            readers=max(1, cores() - cpus) if on_gpu else 1,
            reader_cpus=1,
            attempts=settings.slice_attempts,
            timeout=settings.slice_timeout,
        )

    def call(self, function: str, *arguments: Any) -> Any:
        """As in `Executor`, in the process that has torch."""
        _, labelling, _ = self.crews
        return labelling.children[0].call(function, *arguments)

    def run(
        self, run: Run, slices: list[Slice], resources: Resources
    ) -> Generator[Outcome, None, None]:
        """Run the slices through the stages; yields the outcome of each.

        Raises FastBertErrors as the stages do. Closing it ends the processes.
        """
        guard = Guard(self.attempts, resources.attempts, resources.timeout)
        processes = (resources.readers, 1, 1)
        arguments: tuple[tuple[Any, ...], ...] = (
            (run,),
            (run, resources.replica_cpus, resources.device == "cuda"),
            (run,),
        )
        try:
            for crew, count, given in zip(self.crews, processes, arguments, strict=True):
                crew.begin(min(count, len(slices)), given, guard)
            readers = self.crews[0]
            assert isinstance(readers, Readers)
            readers.follow(streams(slices))
            yield from _flow(self.crews)
        finally:
            self.close()

    def under_way(self) -> float:
        """As in `Executor`."""
        return self.attempts.under_way()

    def close(self) -> None:
        """As in `Executor`."""
        self.attempts = Attempts()
        for crew in self.crews:
            crew.end()
        self.crews = []


class Crew:
    """The processes of one stage, and the slices that wait for them."""

    def __init__(self, stage: type[Stage], limit: int) -> None:
        """Starts one process; `limit` as in `Child`."""
        self.stage, self.limit = stage, limit
        self.children = [Child(1, stage, limit)]
        self.waiting: deque[bytes] = deque()

    def begin(self, processes: int, arguments: tuple[Any, ...], guard: Guard) -> None:
        """Start further processes, and make the stage in each."""
        numbers = range(2, processes + 1)
        self.children += [Child(number, self.stage, self.limit) for number in numbers]
        for child in self.children:
            child.begin(arguments, guard)

    def hand_out(self, following: "Crew | None") -> None:
        """Give waiting slices to the process with the fewest, while the next stage has room."""
        while following is None or following.has_room(self):
            for child in sorted(self.children, key=lambda child: len(child.given)):
                if len(child.given) < _GIVEN and (item := self.next_for(child)):
                    child.give(item)
                    break
            else:
                return

    def next_for(self, child: Child) -> bytes | None:
        """The next slice for a process, if there is one."""
        return self.waiting.popleft() if self.waiting else None

    def has_room(self, before: "Crew") -> bool:
        """Whether all slices of the stage before, and one more, may wait here."""
        coming = sum(len(child.given) for child in before.children)
        size = sum(map(len, self.waiting))
        return coming + len(self.waiting) < _WAITING + len(before.children) and (
            size < _WAITING_BYTES
        )

    def end(self) -> None:
        """Kill them."""
        for child in self.children:
            child.end()


class Readers(Crew):
    """The processes of the first stage. Each follows a stream of slices to its end."""

    def follow(self, streams: list[list[Slice]]) -> None:
        """Set the streams to read."""
        self.streams = iter(streams)
        self.of: dict[Child, Iterator[Slice]] = {}

    def next_for(self, child: Child) -> bytes | None:
        """The next slice of the child's stream, or of one without a reader."""
        piece = next(self.of.get(child, iter(())), None)
        if piece is None and (stream := next(self.streams, None)):
            self.of[child] = iter(stream)
            piece = next(self.of[child])
        return None if piece is None else packed(Work(piece))


def _flow(crews: list[Crew]) -> Generator[Outcome, None, None]:
    behind = [*crews[1:], None]
    children = [child for crew in crews for child in crew.children]
    while True:
        for crew, following in reversed([*zip(crews, behind, strict=True)]):
            crew.hand_out(following)
        if not any(child.given for child in children):
            return
        ready = wait([each for child in children for each in child.waited_for()])
        for crew, following in zip(crews, behind, strict=True):
            for child in crew.children:
                if not any(each in ready for each in child.waited_for()):
                    continue
                for is_slice, data in child.answers():
                    if is_slice and following is not None:
                        following.waiting.append(data)
                        continue
                    outcome = unpacked(data)
                    if isinstance(outcome, FastBertError):
                        raise outcome
                    yield outcome
