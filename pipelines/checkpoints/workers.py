"""A training job in this process or on several workers of Ray Train."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastbert.errors import FastBertError
from fastbert.filesystem import absolute


def on_workers(run: Callable[[Any], dict[str, Any]], settings: Any, workers: int) -> dict[str, Any]:
    """`run(settings)`, here or, for several workers, on Ray Train.

    Each worker runs the same function, in a folder of Ray; transformers.Trainer finds Ray's process
    group and divides the batches. All workers must be able to write the output.
    """
    if workers == 1:
        return run(settings)
    settings = replace(settings, **_absolute(settings))
    from ray.train import RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    from pipelines.running.cluster import cluster_resources, start_ray
    from pipelines.running.quiet import quiet_transformers

    start_ray()
    resources = cluster_resources()

    summaries = Queue(actor_options={"num_cpus": 0})

    def loop(settings: Any) -> None:
        quiet_transformers()
        summary = run(settings)
        if is_first_worker():
            summaries.put(summary)  # not all releases of Ray pass on return values

    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            loop,
            train_loop_config=settings,
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=resources.get("GPU", 0) >= workers
            ),
            run_config=RunConfig(storage_path=folder),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:  # Ray wraps a worker's error
            causes = [cause for e in error.worker_failures.values() for cause in (e, *e.args)]
            raise next((e for e in causes if isinstance(e, FastBertError)), error) from error
    summary: dict[str, Any] = summaries.get()
    return summary | {"workers": workers}


def is_first_worker() -> bool:
    """Whether this process writes the result of all workers; also True for a single process."""
    return int(os.environ.get("RANK", 0)) == 0


def _absolute(settings: Any) -> dict[str, Any]:
    """The settings that name places, with absolute local paths."""
    values = vars(settings)
    places: dict[str, Any] = {"output": absolute(settings.output)}
    for name in {"train", "dev", "unlabeled", "corpus"} & values.keys():
        places[name] = tuple(map(absolute, values[name]))
    if "backbone" in values:
        places["backbone"] = _local(settings.backbone)
    if "teacher" in values:
        places["teacher"] = tuple(map(_local, settings.teacher))
    return places


def _local(place: str) -> str:
    """A folder's absolute path; or a model's id on the hub, unchanged."""
    return os.path.abspath(place) if os.path.isdir(place) else place
