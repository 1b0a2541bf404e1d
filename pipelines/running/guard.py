"""How often something was begun and not finished: what kills its process does so a few times."""

import faulthandler
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Attempts:
    """Counts, by what and stage, the attempts that did not come to an end.

    An actor of its own, which outlives processes that are killed. `what` is tried by one process
    at a time: a slice, or the start of one actor.
    """

    def __init__(self) -> None:
        self._open: Counter[tuple[str, str]] = Counter()

    @classmethod
    def start(cls, name: str) -> Any:
        """The actor; it lives as long as this handle. It stays on the driver's node, where no
        stage can take its counts with the node."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
        return ray.remote(cls).options(name=name, scheduling_strategy=here, **options).remote()

    def failed(self, what: str, stage: str) -> int:
        """How many attempts have ended their process."""
        return self._open[what, stage]

    def begin(self, what: str, stage: str) -> int:
        """Note an attempt; returns how many before it have ended their process."""
        failed = self._open[what, stage]
        self._open[what, stage] += 1
        return failed

    def end(self, what: str, stage: str) -> None:
        """The attempt came to an end, good or bad, and its process lives."""
        self._open.pop((what, stage), None)


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

    def failed(self, what: str, stage: str) -> int:
        """How many attempts have ended their process."""
        failed: int = ray.get(self.attempts.failed.remote(what, stage))
        return failed

    def begin(self, what: str, stage: str) -> int:
        """Note an attempt without a limit of time; returns how many have ended their process."""
        failed: int = ray.get(self.attempts.begin.remote(what, stage))
        return failed

    @contextmanager
    def attempt(self, what: str, stage: str, timeout: float | None = None) -> Iterator[int]:
        """An attempt at `what`; gives how many before it have ended their process.

        It has so many seconds, by default the guard's `timeout`.
        """
        failed = self.begin(what, stage)
        # A thread of C: it works while Python hangs in a call that does not let go of it.
        faulthandler.dump_traceback_later(timeout or self.timeout, exit=True)
        try:
            yield failed
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.attempts.end.remote(what, stage)
