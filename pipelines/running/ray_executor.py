"""The executor on Ray. It imports Ray when started: a run with nothing to do needs no Ray."""

import logging
from collections.abc import Generator
from pkgutil import resolve_name
from typing import Any

from fastbert.errors import InputError
from pipelines.input.slices import Slice
from pipelines.labelling.run import Resources, Run
from pipelines.labelling.work import Outcome
from pipelines.running.stages import STAGES, Stage
from pipelines.settings import LabelSettings

log = logging.getLogger(__name__)

#: Slices from which on it is said what they cost the driver, and about how long it takes for each
#: (docs/scale.md).
_MANY, _SECONDS_PER_SLICE = 100_000, 0.02


class RayExecutor:
    """Runs the stages on the cluster at RAY_ADDRESS, or on one that it starts here."""

    def __init__(self, stages: tuple[type[Stage], ...] = STAGES) -> None:
        self.stages = stages
        self._attempts: Any = None

    def resources(self, settings: LabelSettings) -> Resources:
        """Join or start the cluster, and divide its present resources."""
        from pipelines.running.cluster import cluster_resources, cores_of_nodes, start_ray

        start_ray()
        return share_out(settings, cluster_resources(), cores_of_nodes())

    def call(self, function: str, *arguments: Any) -> Any:
        """As in `Executor`, in the driver."""
        return resolve_name(function)(*arguments)

    def under_way(self) -> float:
        """As in `Executor`."""
        rows: float = self._attempts.under_way() if self._attempts else 0.0
        return rows

    def close(self) -> None:
        """As in `Executor`; does not stop the cluster."""

    def run(
        self, run: Run, slices: list[Slice], resources: Resources
    ) -> Generator[Outcome, None, None]:
        """As `ray_data.run_stages`; failures of the cluster also become FastBertErrors."""
        from pipelines.running.cluster import faults_of_ray
        from pipelines.running.ray_data import AttemptsOfActor, attempts_of, run_stages

        self._attempts = AttemptsOfActor(attempts_of(run))
        tell_many(slices)
        with faults_of_ray():
            yield from run_stages(run, slices, resources, self.stages)


def tell_many(slices: list[Slice]) -> None:
    """Say it where the slices keep Ray's driver busy for long, however fast the replicas are."""
    if len(slices) > _MANY:
        log.warning(
            "%d slices of at most %d rows: on Ray the driver takes about %g ms for each, %.1f h in "
            "all, however many replicas there are; a larger --slice-rows makes fewer",
            *(len(slices), max(piece.rows for piece in slices)),
            *(1e3 * _SECONDS_PER_SLICE, len(slices) * _SECONDS_PER_SLICE / 3600),
        )


def share_out(settings: LabelSettings, cluster: dict[str, float], nodes: list[int]) -> Resources:
    """Divide the cluster between replicas and readers; raises InputError if it is too small.

    `cluster` has "CPU" and, if there are any, "GPU"; `nodes` are the cores of each node.

    With GPUs, tokenizing may be the bottleneck: readers get all remaining cores. On CPUs the model
    is far slower than any tokenizer: replicas get the cores, with one reader each beside them.
    Three pools of actors, because Ray never fuses those, which keeps tokenizing out of the replica.
    """
    low, high = settings.replica_range()
    cpus, gpus = cluster.get("CPU", 0.0), settings.gpus_per_replica
    if gpus is None:
        gpus = 1.0 if cluster.get("GPU") else 0.0
    if gpus:
        reader_cpus, replica_cpus = 1.0, settings.cpus_per_replica or 1
        # An autoscaling cluster has few CPUs at first: allow several readers per replica.
        readers = max(4 * high, int(cpus - high * replica_cpus - Resources.commit_cpus))
    else:
        reader_cpus, readers = 0.5, high
        share = int(cpus - reader_cpus - Resources.commit_cpus) // high
        replica_cpus = settings.cpus_per_replica or max(1, min(share, _fitting(nodes, high)))
    needed = low * replica_cpus + reader_cpus + Resources.commit_cpus
    if needed > cpus and not gpus:  # a GPU cluster may still grow
        raise InputError(
            f"the cluster has {cpus:g} CPUs, {low} replicas of {replica_cpus} CPUs with a reader "
            f"need {needed:g}; lower --replicas or --cpus-per-replica, or use a larger cluster"
        )
    return Resources(
        low=low,
        high=high,
        replica_gpus=gpus,
        replica_cpus=replica_cpus,
        readers=readers,
        reader_cpus=reader_cpus,
        answer_early=bool(gpus),
        attempts=settings.slice_attempts,
        timeout=settings.slice_timeout,
    )


def _fitting(nodes: list[int], replicas: int) -> int:
    """The most cores that each of `replicas` replicas can have, since none spans two nodes."""
    sizes = range(max(nodes, default=0), 0, -1)
    return next((n for n in sizes if sum(node // n for node in nodes) >= replicas), 0)
