"""Choice of the executor: this machine, or Ray."""

import os
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

from pipelines.input.slices import Slice
from pipelines.labelling.job import label
from pipelines.labelling.run import Executor, Resources, Run
from pipelines.labelling.work import Outcome
from pipelines.settings import Labelling, LabelSettings

#: Environment variables that show a cluster: set by the user, and by Ray in a job.
_RAYS = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")


def label_anywhere(settings: LabelSettings) -> dict[str, Any]:
    """The labelling job, as the command runs it."""
    return label(settings, Chosen())


class Chosen:
    """The executor that `--executor` names. It is made only if there are slices to label: a run
    with nothing to do needs neither Ray nor torch."""

    executor: Executor | None = None

    def resources(self, settings: LabelSettings) -> Resources:
        """As in `Executor`."""
        self.executor = choose(settings)
        return self.executor.resources(settings)

    def call(self, function: str, *arguments: Any) -> Any:
        """As in `Executor`."""
        assert self.executor is not None
        return self.executor.call(function, *arguments)

    def under_way(self) -> float:
        """As in `Executor`."""
        return self.executor.under_way() if self.executor else 0.0

    def close(self) -> None:
        """As in `Executor`."""
        if self.executor:
            self.executor.close()

    def run(
        self, run: Run, slices: list[Slice], resources: Resources
    ) -> Generator[Outcome, None, None]:
        """As in `Executor`."""
        assert self.executor is not None
        return self.executor.run(run, slices, resources)


def asks_for_ray(settings: Labelling) -> bool:
    """Whether a run is on Ray, as far as settings and environment show."""
    in_cluster = any(os.environ.get(name) for name in _RAYS)
    auto = settings.executor == "auto" and (in_cluster or settings.replica_range()[1] > 1)
    return settings.executor == "ray" or auto


def choose(settings: LabelSettings) -> Executor:
    """By `--executor`; auto is Ray in a Ray job, with RAY_ADDRESS, for several replicas and on a
    machine with several GPUs, and this machine otherwise."""
    from pipelines.running.local import LocalExecutor
    from pipelines.running.ray_executor import RayExecutor

    auto = settings.executor == "auto"
    if asks_for_ray(settings):
        return RayExecutor()
    with ExitStack() as unless_local:
        local = LocalExecutor()
        unless_local.callback(local.close)
        if auto and settings.gpus_per_replica != 0:
            local.start(settings)
            if local.gpus() > 1:
                return RayExecutor()
        unless_local.pop_all()
    return local
