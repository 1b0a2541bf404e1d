"""The whole job against its own engine, and against the recipe of Ray Data's documentation.

Hypotheses: in steady state the job on one machine, at the model's default point, labels at least
0.95 times as many rows a second as one process does that reads, tokenizes and classifies the same
slices, with as many threads, one after the other; and its replica is busy at least 0.95 of the
time. On Ray it is slower.

    python -m benchmarks.speed.job --model models/ag_news --data ag_news/train.parquet \\
        --work DIR --output benchmarks/results/job.json

Steady state: from the first commit's time to the last's, so starting processes and the model is not
counted; the engine is warmed up. The contenders run in turns, and ratios are medians of rounds.

What is fair: here readers, commits and Ray share the cores with the model, which on a GPU
they do not. The engine has all cores for itself and writes nothing. `replica_busy` says how much of
the time the replica had a slice to work on.

The recipe is that of the guide "Working with Text": transformers' text-classification pipeline in a
pool of two actors, here between read_parquet and write_parquet. Added are the truncation, without
which long texts fail, and batches of 32 rows, without which one batch would be everything. It runs
the checkpoint at full depth, on the first --recipe-rows rows. Its time is from its first batch's
end to its last's; writing the last is not counted.
"""

import json
import shutil
import sys
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks.support.measure import machine
from fastbert.checkpoint import fingerprint
from fastbert.configuration import load_config
from fastbert.exits.operating_point import OperatingPoint
from pipelines.input.shards import find_shards
from pipelines.input.slices import Slice
from pipelines.labelling import job
from pipelines.labelling.classify import Classify
from pipelines.labelling.read import ReadTokenize
from pipelines.labelling.run import Executor, Run
from pipelines.labelling.token_columns import tokens_of
from pipelines.labelling.work import ERROR, Work
from pipelines.output.identity import Identity
from pipelines.running.cluster import start_ray
from pipelines.running.local import LocalExecutor
from pipelines.running.ray_executor import RayExecutor
from pipelines.settings import LabelSettings


def write_corpus(data: Path, folder: Path, rows: int) -> Path:
    """One shard with `rows` texts: those of `data`, from the start again when they run out."""
    texts = pq.read_table(data, columns=["text"])["text"]
    chosen = texts.take(pa.array(np.arange(rows) % len(texts)))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"text": chosen, "id": np.arange(rows)}), folder / "texts.parquet")
    return folder


class EngineWithTokenizing:
    """The job's reader and engine in this process, slice after slice."""

    def __init__(self, settings: LabelSettings, threads: int) -> None:
        config = load_config(Path(settings.model))
        point = OperatingPoint.asked(config, settings.speed, settings.operating_point)
        self.rule = point.rule()
        shard = find_shards(list(settings.input))[0]
        rows = pq.read_metadata(shard.url.removeprefix("file://")).num_rows
        run = Run(
            model=settings.model,
            output=settings.output,
            run_id="engine",
            identity=Identity(
                checkpoint=fingerprint(Path(settings.model)),
                criterion=point.criterion,
                thresholds=point.thresholds,
                temperatures=point.temperatures,
                exit_depths=point.exit_depths,
                text_column=settings.text_column,
                pair_column=None,
                carry=None,
                max_length=config.max_length,
            ),
            operating_point=point.name,
            audit_rate=0.0,
            precision=settings.precision,
            emulated=True,
        )
        self.read, self.rows = ReadTokenize(run), rows
        self.slices = [
            Slice(shard, rows, first, min(settings.slice_rows, rows - first))
            for first in range(0, rows, settings.slice_rows)
        ]
        self.engine = Classify(run, threads).engine
        self._classify(self.slices[0])  # warm-up

    def _classify(self, piece: Slice) -> None:
        work = self.read(Work(piece))
        assert isinstance(work, Work)
        table = work.table.combine_chunks()
        self.engine.classify(tokens_of(table, table[ERROR].is_null().to_numpy()), self.rule)

    def __call__(self) -> dict[str, float]:
        """Rows per second."""
        started = time.perf_counter()
        for piece in self.slices:
            self._classify(piece)
        return {"rows_per_second": self.rows / (time.perf_counter() - started)}


def whole_job(settings: LabelSettings, executor: Executor) -> dict[str, float]:
    """Rows per second in steady state, and the share of that time in which the replica worked."""
    shutil.rmtree(settings.output, ignore_errors=True)
    run_id = job.label(settings, executor)["run_id"]
    columns = ["slice_id", "committed_at", "slice_rows", "slice_device_seconds"]
    stats = pq.read_table(Path(settings.output, "stats", f"{run_id}.parquet"), columns=columns)
    slices = stats.group_by(columns).aggregate([]).sort_by("committed_at").to_pylist()
    first, last = (datetime.fromisoformat(slices[k]["committed_at"]) for k in (0, -1))
    seconds = (last - first).total_seconds()
    return {
        "rows_per_second": sum(each["slice_rows"] for each in slices[1:]) / seconds,
        "replica_busy": sum(each["slice_device_seconds"] for each in slices[1:]) / seconds,
    }


class TextClassifier:
    """As in the guide."""

    def __init__(self, model: str, max_length: int, journal: str) -> None:
        from transformers import pipeline

        import fastbert.model  # noqa: F401  registers the checkpoint's type

        self.options = {"truncation": True, "max_length": max_length}
        self.model = pipeline("text-classification", model, device="cpu")
        self.journal = journal

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds the labels of a batch."""
        found = self.model(list(batch["text"]), **self.options)
        batch["label"] = np.array([prediction["label"] for prediction in found])
        with open(self.journal, "a") as file:
            file.write(f"{time.monotonic()} {len(found)}\n")
        return batch


def recipe(corpus: Path, work: Path, model: str, batch_size: int) -> dict[str, float]:
    """Rows per second between the first batch's end and the last's."""
    journal = work / "recipe.txt"
    journal.unlink(missing_ok=True)
    max_length = load_config(Path(model)).max_length
    start_ray()  # with more than two logical CPUs, on which Ray Data hangs
    ray.data.read_parquet(str(corpus)).map_batches(
        TextClassifier,
        fn_constructor_args=(model, max_length, str(journal)),
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=2),
    ).write_parquet(str(work / "recipe"))
    times, rows = np.loadtxt(journal, ndmin=2).T
    order = np.argsort(times)
    return {"rows_per_second": float(rows[order][1:].sum() / (times.max() - times.min()))}


@click.command()
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", required=True, type=click.Path(path_type=Path), help="For data and output.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The JSON file.")
@click.option("--rows", default=20_480, show_default=True, help="Rows the job labels.")
@click.option("--slice-rows", default=2_048, show_default=True)
@click.option("--recipe-rows", default=512, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(
    model: Path,
    data: Path,
    work: Path,
    output: Path,
    rows: int,
    slice_rows: int,
    recipe_rows: int,
    rounds: int,
) -> None:
    """Run all in turns, write JSON."""
    print(machine("ray"), file=sys.stderr)
    work = work.absolute()
    settings = LabelSettings(
        input=(str(write_corpus(data, work / "in", rows)),),
        output=str(work / "out"),
        model=str(model.absolute()),
        slice_rows=slice_rows,
        precision="fp32",
    )
    few = write_corpus(data, work / "few", recipe_rows)
    with closing(LocalExecutor()) as executor:
        threads = executor.resources(settings).replica_cpus
    contenders = {
        "engine with tokenizing": EngineWithTokenizing(settings, threads),
        "job": lambda: whole_job(settings, LocalExecutor()),
        "job on Ray": lambda: whole_job(settings, RayExecutor()),
        "recipe": lambda: recipe(few, work, settings.model, batch_size=32),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            runs[name].append(run())
            ray.shutdown()  # it is not idle when it has nothing to do
            print(name, runs[name][-1], file=sys.stderr)

    def compare(other: str) -> float:
        pairs = zip(runs["job"], runs[other], strict=True)
        return round(median(a["rows_per_second"] / b["rows_per_second"] for a, b in pairs), 3)

    result = {
        "command": f"python -m benchmarks.speed.job --model models/ag_news "
        f"--data ag_news/{data.name} --rows {rows} --slice-rows {slice_rows} "
        f"--recipe-rows {recipe_rows} --rounds {rounds} --work work "
        "--output benchmarks/results/job.json",
        "machine": machine("ray", "pyarrow"),
        "checkpoint": fingerprint(model)[:12],
        "replica_threads": threads,
        "job : engine with tokenizing": compare("engine with tokenizing"),
        "job : job on Ray": compare("job on Ray"),
        "job : recipe": compare("recipe"),
        "replica_busy": round(median(run["replica_busy"] for run in runs["job"]), 3),
        "rows_per_second": {
            name: [round(run["rows_per_second"], 1) for run in mine] for name, mine in runs.items()
        },
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
