"""What does an output's history cost a run that has nothing to do, and a report?

    python -m benchmarks.speed.history --work WORK --output benchmarks/results/history.json

Hypothesis: over 1,000,000 committed slices a run with nothing to do takes under 60 s and 1.5 GB,
and a report under 10 s; 10,000,000 slices are planned in under 10 minutes and 4 GB. Over 100 slices
a run with nothing to do takes at most three times as long as importing pyarrow.parquet, duckdb and
fsspec. Over 5,000 slices on an S3 store, it makes at most 20 requests beside the pages of listings
and one for each manifest. The store is the one at `--endpoint`, as `python -m moto.server` is one.

The output is made up: manifests and statistics are written by the job's own code, from a thousand
records of tests/support/made_up_history.py in turns; shards and files of labelled rows are empty,
as no process opens them. Of the 10,000,000 slices only the manifests are on the disk: the listing
of `table/` and the input's shards are made up in memory, and a program of its own makes the plan.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import click
import fsspec
import numpy as np
import pyarrow as pa
from support.made_up_history import ROWS, a_record
from support.models import tiny_fastbert, tiny_tokenizer

from benchmarks import ROOT
from benchmarks.support.measure import machine
from fastbert.checkpoint import fingerprint
from fastbert.configuration import load_config
from fastbert.exits.operating_point import OperatingPoint
from fastbert.weights import save_checkpoint
from pipelines.input.shards import Shard, find_shards
from pipelines.labelling.job import label
from pipelines.labelling.plan import make_plan
from pipelines.labelling.run import columns_of
from pipelines.labelling.summary import Tally, totals
from pipelines.output import manifests
from pipelines.output.history import statistics
from pipelines.output.identity import Identity
from pipelines.output.ledger import Ledger
from pipelines.output.manifests import Manifest
from pipelines.output.storage import Storage, to_parquet
from pipelines.running.executor import Chosen
from pipelines.settings import LabelSettings

#: Slices of a shard; runs of a history; different records, which come in turns.
SLICES, RUNS, KINDS = 100, 365, 1000


def identity(checkpoint: Path) -> Identity:
    """That of a run at speed 0.5."""
    config = load_config(checkpoint)
    point = OperatingPoint.asked(config, 0.5, None)
    return Identity(
        checkpoint=fingerprint(checkpoint),
        criterion=point.criterion,
        thresholds=point.thresholds,
        exit_depths=[each.depth for each in config.exit_list],
        text_column="text",
        pair_column=None,
        carry=None,
        max_length=config.max_length,
    )


def shard_name(number: int) -> str:
    return f"dt={number // 100:04d}/part-{number:06d}"


def made_up_shards(count: int) -> list[Shard]:
    names = map(shard_name, range(count))
    return [Shard(f"file:///in/{name}.parquet", name, f"etag:{i}") for i, name in enumerate(names)]


def records(recipe: dict[str, Any]) -> pa.Table:
    """A thousand records, as rows of a manifest."""
    random, at = np.random.default_rng(0), datetime(2026, 1, 1, 2, tzinfo=UTC)
    made = [a_record("", at, i, i % 5 == 0, random) for i in range(KINDS)]
    rows = manifests.rows_of(made)
    recipes = pa.DictionaryArray.from_arrays(np.zeros(KINDS, np.int32), [json.dumps(recipe)])
    return rows.set_column(rows.schema.get_field_index("recipe"), "recipe", recipes)


def slices_of(shards: list[Shard], some: range, kinds: pa.Table, of_each: int = SLICES) -> pa.Table:
    """Rows of a manifest: all slices of some of the shards. Each run has labelled its share."""
    numbers = np.arange(some.start * of_each, some.stop * of_each)
    shard, mine = numbers // of_each, shards[some.start : some.stop]

    def repeated(values: list[str], place: np.ndarray) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(place.astype(np.int32)), pa.array(values))

    rows = kinds.take(pa.array(numbers % KINDS))
    for name, values in {
        "shard": repeated([each.name for each in mine], shard - some.start),
        "source": repeated([each.url for each in mine], shard - some.start),
        "version": repeated([each.version for each in mine], shard - some.start),
        "run_id": repeated([f"night-{i:03d}" for i in range(RUNS)], shard * RUNS // len(shards)),
        "first_row": pa.array(numbers % of_each * ROWS),
        "shard_rows": pa.array(np.full(len(numbers), of_each * ROWS)),
    }.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    return rows


def cut(some: range, most: int) -> Iterator[range]:
    return (some[i : i + most] for i in range(0, len(some), most))


def write_ledger(
    storage: Storage, shards: list[Shard], recipe: dict[str, Any], of_each: int = SLICES
) -> None:
    """Manifests as many nights leave them, each half as large as the one before."""
    kinds, made = records(recipe), list[Manifest]()
    storage.put("ledger/format.json", b'{"format": 2}')
    left = range(len(shards))
    while left:
        some, left = np.split(left, [max(len(left) // 2, 10)])
        some, left = (range(x[0], x[-1] + 1) if len(x) else range(0) for x in (some, left))
        made.append(Manifest.new(len(made) + 1, len(made) + 1, made))
        parts = (slices_of(shards, each, kinds, of_each) for each in cut(some, 500))
        storage.put(made[-1].path, manifests.encoded(parts))


def write_runs(storage: Storage, shards: list[Shard], recipe: dict[str, Any]) -> None:
    """Statistics and summaries."""
    kinds = records(recipe)
    summary = totals(Tally(manifests.records_of(kinds))) | {"seconds": 600.0, "exit_code": 0}
    for run in range(RUNS):
        mine = range(-(-run * len(shards) // RUNS), -(-(run + 1) * len(shards) // RUNS))
        if mine:
            found = statistics(slices_of(shards, mine, kinds))
            storage.put(f"stats/night-{run:03d}.parquet", to_parquet(found))
            at = datetime(2026, 1, 1, 2, tzinfo=UTC) + timedelta(days=run)
            text = json.dumps(summary | {"run_id": f"night-{run:03d}", "started_at": f"{at}"})
            storage.put(f"ledger/runs/night-{run:03d}.json", text.encode())


def made_up(work: Path, slices: int, checkpoint: Path) -> tuple[Path, Path]:
    """A corpus and its output."""
    corpus, output = work / f"corpus-{slices}", work / f"labels-{slices}"
    if not (output / "done").exists():
        for number in range(-(-slices // SLICES)):
            path = corpus / f"{shard_name(number)}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            (output / "table" / path.parent.name).mkdir(parents=True, exist_ok=True)
            for first in range(0, SLICES * ROWS, ROWS):
                (output / "table" / f"{shard_name(number)}.{first:012d}.parquet").touch()
        storage, shards = Storage(str(output)), find_shards([str(corpus)])
        write_ledger(storage, shards, identity(checkpoint).recipe)
        write_runs(storage, shards, identity(checkpoint).recipe)
        (output / "done").touch()
    return corpus, output


def measured(command: list[str]) -> dict[str, Any]:
    """Seconds and peak memory of a program, and what its last line says."""
    started = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as job:  # fmt: skip
        assert job.stdout is not None
        said = job.stdout.read()
        _, status, usage = os.wait4(job.pid, 0)
        job.returncode = status
    if status:
        raise SystemExit(f"{' '.join(command)} failed: {status}")
    return {
        "seconds": round(time.monotonic() - started, 2),
        "peak_megabytes": round(usage.ru_maxrss / 1024),
        "said": json.loads(said.splitlines()[-1]) if said.strip() else None,
    }


def label_again(corpus: Path, output: Path, checkpoint: Path) -> dict[str, Any]:
    """The nightly command, which finds nothing to do."""
    command = [sys.executable, "-m", "jobs", "label", "--input", str(corpus), "--speed", "0.5"]
    found = measured([*command, "--output", str(output), "--model", str(checkpoint)])
    said = found.pop("said")
    if said["slices_labelled"]:
        raise SystemExit(f"there was something to do: {said}")
    return found | {"slices_up_to_date": said["slices_up_to_date"]}


def plan_alone(work: str, slices: int, checkpoint: str) -> None:
    """Plan over manifests only; what lies in `table/`, and the shards, are made up."""
    shards = made_up_shards(slices // SLICES)
    names = np.array([f"table/{shard.name}." for shard in shards])
    ends = np.array([f"{first:012d}.parquet" for first in range(0, SLICES * ROWS, ROWS)])
    parts = [pa.array(np.char.add(np.repeat(some, SLICES), np.tile(ends, len(some))).tolist())
             for some in np.array_split(names, 100)]  # fmt: skip
    listing, started = (pa.chunked_array(parts), list[str]()), time.monotonic()
    mine = identity(Path(checkpoint))
    usual = Storage.listing
    with mock.patch.object(
        Storage, "listing", lambda s, f, e: listing if f == "table" else usual(s, f, e)
    ):
        output = Ledger(Storage(work)).committed()
    plan = make_plan(shards, output, mine, columns_of(mine), ROWS, "refuse")
    if plan.todo or len(plan.up_to_date) != slices:
        raise SystemExit(f"there was something to do: {len(plan.up_to_date)} of {slices}")
    print(json.dumps({"seconds_of_planning": round(time.monotonic() - started, 2)}))


def plan_of(work: Path, slices: int, checkpoint: Path) -> dict[str, Any]:
    """The same in a process of its own."""
    place = work / f"manifests-{slices}"
    if not (place / "done").exists():
        recipe = identity(checkpoint).recipe
        write_ledger(Storage(str(place)), made_up_shards(slices // SLICES), recipe)
        (place / "done").touch()
    program = "import sys; from benchmarks.speed.history import plan_alone; "
    program += "plan_alone(sys.argv[1], int(sys.argv[2]), sys.argv[3])"
    found = measured([sys.executable, "-c", program, str(place), str(slices), str(checkpoint)])
    return found | found.pop("said")


def requests_of(endpoint: str, slices: int, checkpoint: Path) -> dict[str, Any]:
    """What a run with nothing to do asks an S3 store."""
    from aiobotocore.client import AioBaseClient

    os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    fs, root, asked = fsspec.filesystem("s3"), f"history-{time.time_ns()}", Counter[str]()
    fs.mkdir(root)
    names = [shard_name(number) for number in range(slices // SLICES)]
    fs.pipe({f"{root}/in/{name}.parquet": b"" for name in names})
    for name in names:
        firsts = range(0, SLICES * ROWS, ROWS)
        fs.pipe({f"{root}/out/table/{name}.{first:012d}.parquet": b"" for first in firsts})
    storage, shards = Storage(f"s3://{root}/out"), find_shards([f"s3://{root}/in"])
    write_ledger(storage, shards, identity(checkpoint).recipe)
    write_runs(storage, shards, identity(checkpoint).recipe)
    fs.invalidate_cache()
    usual = AioBaseClient._make_api_call

    async def counted(self: Any, name: str, arguments: Any) -> Any:
        asked[name] += 1
        return await usual(self, name, arguments)

    settings = LabelSettings(
        input=(f"s3://{root}/in",), output=storage.url, model=str(checkpoint), speed=0.5
    )
    with mock.patch.object(AioBaseClient, "_make_api_call", counted):
        summary = label(settings, Chosen())
    if summary["slices_up_to_date"] != slices:
        raise SystemExit(f"there was something to do: {summary}")
    manifests = len(storage.paths("ledger/manifests", ""))
    return {"slices": slices, "manifests": manifests, "requests": asked.total(), "of": dict(asked)}


def size_of(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1)


@click.command()
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--slices", default=1_000_000, show_default=True)
@click.option("--planned", default=10_000_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--endpoint", help="Of an S3 store, to count requests.")
def main(
    work: Path, output: Path, slices: int, planned: int, rounds: int, endpoint: str | None
) -> None:
    """See the top of this file."""
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint"
    save_checkpoint(tiny_fastbert(), tiny_tokenizer(work), str(checkpoint))
    print(machine("duckdb", "pyarrow"))
    few, many = made_up(work, 100, checkpoint), made_up(work, slices, checkpoint)
    imports = [sys.executable, "-c", "import pyarrow.parquet, duckdb, fsspec"]
    pairs = [(measured(imports), label_again(*few, checkpoint)) for _ in range(rounds)]
    report = [sys.executable, "-m", "jobs", "report", "--output", str(many[1])]
    found = {
        "program": "python -m benchmarks.speed.history --work WORK "
        "--output benchmarks/results/history.json",
        "machine": machine("duckdb", "pyarrow"),
        "slices": slices,
        "manifests": len(list((many[1] / "ledger" / "manifests").iterdir())),
        "manifest_megabytes": size_of(many[1] / "ledger" / "manifests"),
        "statistics_megabytes": size_of(many[1] / "stats"),
        "on_s3": requests_of(endpoint, 5_000, checkpoint) if endpoint else None,
        "imports_seconds": [a["seconds"] for a, _ in pairs],
        "nothing_to_do_over_100_seconds": [b["seconds"] for _, b in pairs],
        "times_as_long": round(median(b["seconds"] / a["seconds"] for a, b in pairs), 2),
        "nothing_to_do": [label_again(*many, checkpoint) for _ in range(3)],
        "report": [measured(report) | {"said": None} for _ in range(3)],
        "planned_slices": planned,
        "planned": plan_of(work, planned, checkpoint),
    }
    output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
