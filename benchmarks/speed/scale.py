"""What a slice costs beside its model, whether memory stays flat, and one huge row group.

Hypotheses:

* overhead: planning, scheduling and committing a slice costs at most 1.2 times what Ray Data needs
  for an empty plan (three pools of one actor that return their block) over as many one-row blocks,
  and is linear in the number of slices. The job is the real one, with stages that neither read nor
  load a model; table and ledger are written to a local disk, synced.
* memory: the peak at a million rows, of driver and children together, is at most 1.1 times that at
  ten thousand. The job is the real one on one machine with a tiny model; memory is proportional
  set size.
* reading: a shard that is one row group takes as long slice by slice as in one pass.

    python -m benchmarks.speed.scale overhead --work DIR --output benchmarks/results/scale.json
    python -m benchmarks.speed.scale memory --work DIR --output benchmarks/results/scale.json
    python -m benchmarks.speed.scale reading --work DIR --output benchmarks/results/scale.json

Each writes its own part of the JSON. Everything is generated below DIR. Start-up is not counted:
the overhead is the plan, the input's way into the object store, first to last result, and the end
of the run. The smallest size is run in turns, and its ratio is a median of rounds; a larger one
takes minutes, and is run once per contender, one straight after the other.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy
from support.models import tiny_fastbert, tiny_tokenizer
from support.shards import WORDS

from benchmarks import ROOT
from benchmarks.support import parts
from benchmarks.support.measure import interleaved, ratio
from fastbert.weights import save_checkpoint
from pipelines.input.columns import InputColumns
from pipelines.input.shards import find_shards
from pipelines.input.slices import Slice, SliceReader
from pipelines.labelling import job
from pipelines.labelling.work import Work
from pipelines.output.statistics import SliceStats
from pipelines.running import ray_data as ray_stages
from pipelines.running.cluster import start_ray
from pipelines.running.ray_executor import RayExecutor
from pipelines.running.stages import Committing, Labelling, Reading
from pipelines.settings import LabelSettings

Seconds = dict[str, float]


class NullRead:
    """`ReadTokenize` without reading or tokenizing."""

    def __init__(self, *_: Any) -> None:
        self.table = pa.table({"id": [0]})

    def __call__(self, work: Work) -> Work:
        return replace(work, table=self.table)


class NullClassify:
    """`Classify` without a model."""

    def __init__(self, *_: Any) -> None:
        self.stats = SliceStats(tokens=1, exits=[1], exit_tokens=[1], exit_flops=[1])

    def __call__(self, work: Work) -> Work:
        return replace(work, stats=self.stats)


class NullReading(Reading):
    make = NullRead


class NullLabelling(Labelling):
    make = NullClassify


NULL_STAGES = RayExecutor((NullReading, NullLabelling, Committing))


class Return:
    """An empty stage; its subclasses keep the operators apart."""

    def __call__(self, block: pa.Table) -> pa.Table:
        return block


class First(Return):
    pass


class Second(Return):
    pass


class Third(Return):
    pass


def empty_plan(slices: int, as_we_do: bool = False) -> Seconds:
    """Ray Data's floor, as its documentation writes it, or tuned the way the job is."""
    started = time.perf_counter()
    if as_we_do:
        rows = [{"x": i} for i in range(slices)]
        data = ray.data.from_items(rows, override_num_blocks=slices)
    else:
        data = ray.data.from_arrow([pa.table({"x": [i]}) for i in range(slices)])
    put = time.perf_counter()
    for stage, cpus in ((First, 0.5), (Second, 2), (Third, 0.25)):
        data = data.map_batches(
            stage,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=cpus,
            compute=ActorPoolStrategy(
                min_size=1,
                max_size=1,
                max_tasks_in_flight_per_actor=ray_stages._SLICES_PER_ACTOR if as_we_do else None,
            ),
        )
    times = [time.perf_counter() for _ in data.iter_rows()]
    assert len(times) == slices
    return {"before": put - started, "stages": times[-1] - times[0], "after": 0.0}


def null_job(corpus: Path, output: Path, checkpoint: str) -> Seconds:
    """The labelling job with null stages, over as many slices as `corpus` has rows."""
    shutil.rmtree(output, ignore_errors=True)
    marks: list[float] = []
    real_stages, real_items = ray_stages.run_stages, ray.data.from_items

    def from_items(*arguments: Any, **options: Any) -> Any:
        data = real_items(*arguments, **options)
        marks.append(time.perf_counter())
        return data

    def run_stages(*arguments: Any) -> Iterator[Any]:
        for result in real_stages(*arguments):
            marks.append(time.perf_counter())
            yield result

    with (
        patch.object(ray_stages, "run_stages", run_stages),
        patch.object(ray.data, "from_items", from_items),
    ):
        started = time.perf_counter()
        job.label(null_settings(corpus, output, checkpoint), NULL_STAGES)
        ended = time.perf_counter()
        before, first, last = marks[0] - started, marks[1], marks[-1]
    return {"before": before, "stages": last - first, "after": ended - last}


def null_settings(corpus: Path, output: Path, checkpoint: str) -> LabelSettings:
    """One row per slice."""
    return LabelSettings(
        input=(str(corpus),), output=str(output), model=checkpoint, speed=0.5, slice_rows=1
    )


def tiny_checkpoint(work: Path) -> str:
    """A checkpoint of three layers of 36."""
    folder = work / "checkpoint"
    save_checkpoint(tiny_fastbert(), tiny_tokenizer(work), str(folder))
    return str(folder)


def write_corpus(folder: Path, rows: int, rows_per_shard: int) -> Path:
    """Shards of random texts of 4 to 12 words."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for first in range(0, rows, rows_per_shard):
        count = min(rows_per_shard, rows - first)
        words = np.array(WORDS)[generator.integers(0, len(WORDS), (count, 12))]
        lengths = generator.integers(4, 13, count)
        texts = [" ".join(row[:n]) for row, n in zip(words, lengths, strict=True)]
        table = pa.table({"text": texts, "id": np.arange(first, first + count)})
        pq.write_table(table, folder / f"{first:09d}.parquet", row_group_size=count)
    return folder


@click.group()
def main() -> None:
    """Measure, and write JSON."""


measured = parts.of(main, "ray", "pyarrow")


@measured
@click.option("--slices", multiple=True, default=(1_000, 3_000, 10_000), show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Of the smallest size.")
def overhead(work: Path, slices: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Cost of a slice beside reading and the model."""
    checkpoint = tiny_checkpoint(work)
    start_ray()
    contenders = {
        "empty plan": empty_plan,
        "job": lambda n: null_job(work / f"in{n}", work / "out", checkpoint),
        "empty plan, tuned as the job": lambda n: empty_plan(
            n, as_we_do=True
        ),  # smallest size only
    }
    empty_plan(100)  # warm-up
    sizes = []
    for n in sorted(slices):
        write_corpus(work / f"in{n}", n, rows_per_shard=100)
        smallest = n == min(slices)
        names = list(contenders) if smallest else ["empty plan", "job"]
        runs: dict[str, list[Seconds]] = {name: [] for name in names}
        for _ in range(rounds if smallest else 1):
            for name in names:
                runs[name].append(contenders[name](n))
                print(n, name, runs[name][-1], file=sys.stderr)
        started = time.perf_counter()
        job.label(null_settings(work / f"in{n}", work / "out", checkpoint), RayExecutor())
        again = time.perf_counter() - started
        sizes.append(
            {
                "slices": n,
                "rounds": len(runs["job"]),
                "milliseconds_per_slice": {
                    name: {
                        part: round(1e3 * median(run[part] for run in mine) / n, 3)
                        for part in ("before", "stages", "after")
                    }
                    for name, mine in runs.items()
                },
                "ratios": {
                    f"job : {name}": compare(runs["job"], runs[name])
                    for name in names
                    if name != "job"
                },
                "milliseconds_per_slice_of_a_run_with_nothing_to_do": round(1e3 * again / n, 3),
            }
        )
    ray.shutdown()
    per_slice = [sum(size["milliseconds_per_slice"]["job"].values()) for size in sizes]
    return {
        "sizes": sizes,
        "per slice, largest size : smallest": round(per_slice[-1] / per_slice[0], 3),
    }


def compare(ours: list[Seconds], theirs: list[Seconds]) -> float:
    """The median over rounds of the ratio of whole runs."""
    pairs = zip(ours, theirs, strict=True)
    return round(median(sum(a.values()) / sum(b.values()) for a, b in pairs), 3)


def peak_of(command: list[str]) -> tuple[dict[str, Any], float]:
    """The summary of a job, and the most memory that it and all its processes held at once, in MiB:
    the sum of their proportional set sizes, looked at ten times a second."""
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    tree, peak = psutil.Process(driver.pid), 0
    while driver.poll() is None:
        held = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (tree, *tree.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    held += process.memory_full_info().pss
        peak = max(peak, held)
        time.sleep(0.1)
    assert driver.stdout is not None
    assert driver.returncode == 0
    return json.loads(driver.stdout.read()), peak / 2**20


@measured
@click.option("--rows", multiple=True, default=(10_000, 1_000_000), show_default=True)
@click.option("--slice-rows", default=500, show_default=True)
def memory(work: Path, rows: tuple[int, ...], slice_rows: int) -> dict[str, Any]:
    """Peak memory of a job on one machine, driver and children."""
    checkpoint = tiny_checkpoint(work)
    runs = []
    for n in sorted(rows):
        corpus = write_corpus(work / "in", n, rows_per_shard=100_000)
        shutil.rmtree(work / "out", ignore_errors=True)
        summary, peak = peak_of(
            [
                *(sys.executable, str(ROOT / "jobs" / "label.py"), "--executor", "local"),
                *("--input", str(corpus), "--output", str(work / "out"), "--model", checkpoint),
                *("--speed", "0.5", "--slice-rows", str(slice_rows)),
            ]
        )
        assert summary["rows"] == n
        runs.append(
            {
                "rows": n,
                "slices": summary["slices_labelled"],
                "peak_mib": round(peak, 1),
                "seconds": summary["seconds"],
            }
        )
        print(runs[-1], file=sys.stderr)
    return {
        "runs": runs,
        "peak, largest : smallest": round(runs[-1]["peak_mib"] / runs[0]["peak_mib"], 3),
    }


@measured
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--slice-rows", default=16_384, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def reading(work: Path, rows: int, slice_rows: int, rounds: int) -> dict[str, Any]:
    """Slices of one huge row group."""
    shard = find_shards([str(write_corpus(work / "in", rows, rows_per_shard=rows))])[0]
    columns = InputColumns()
    pieces = [
        Slice(shard, rows, first, min(slice_rows, rows - first))
        for first in range(0, rows, slice_rows)
    ]

    def read(reader: SliceReader, piece: Slice) -> int:
        return sum(part.num_rows for part in reader.read(piece))

    def one_reader() -> None:
        reader = SliceReader(columns)
        assert sum(read(reader, piece) for piece in pieces) == rows

    def reader_for_each() -> None:
        assert sum(read(SliceReader(columns), piece) for piece in pieces) == rows

    contenders = {
        "one pass": lambda: read(SliceReader(columns), Slice(shard, rows, 0, rows)),
        "slice by slice": one_reader,
        "opened for each slice": reader_for_each,
    }
    seconds = interleaved(contenders, rounds)
    return {
        "slices": len(pieces),
        "slice by slice : one pass": ratio(seconds, "slice by slice", "one pass"),
        "opened for each slice : one pass": ratio(seconds, "opened for each slice", "one pass"),
    }


if __name__ == "__main__":
    main()
