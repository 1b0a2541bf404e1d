"""What a corpus of ten billion rows asks of the driver, of its memory and of the store.

    python -m benchmarks.speed.at_scale nights --work WORK --output benchmarks/results/at_scale.json
    python -m benchmarks.speed.at_scale client --work WORK --output benchmarks/results/at_scale.json
    python -m benchmarks.speed.at_scale requests --endpoint http://127.0.0.1:5000 --work WORK \\
        --output benchmarks/results/at_scale.json
    python -m benchmarks.speed.at_scale driver --work WORK --output benchmarks/results/at_scale.json
    python -m benchmarks.speed.at_scale texts --work WORK --output benchmarks/results/at_scale.json

Each writes its own part of the JSON:

* nights: the real job, on shards of ten slices. The input is listed by the real client of S3 from a
  store that is made up (`made_up_store.py`), and each footer is parsed; an executor without
  processes gives a record for each slice, as if it had been labelled; the ledger is on the local
  disk. Each night is a process of its own. Over the largest input, of which one machine cannot
  label all in one night, the first night is planned, and the following ones have manifests that
  the job's own code has written.
* client: what the client of S3 takes for each listed object, footer and record, without a network.
* requests: what the job asks an S3 store, as `python -m moto.server` is one.
* driver: memory of the driver on Ray, by slice.
* texts: rows of JSON Lines and CSV that are counted in a second.

Hypothesis: time grows as the number of slices; a night that labels 1,000,000 slices, and nights
with 10,000,000 in the ledger, take at most 16 GB.
"""

import csv
import io
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import click
import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from support.made_up_history import ROWS, a_record
from support.shards import WORDS, random_texts
from support.stages import InProcess

from benchmarks.speed.history import (
    KINDS,
    RUNS,
    identity,
    measured,
    shard_name,
    size_of,
    write_ledger,
)
from benchmarks.speed.scale import NULL_STAGES, null_settings, tiny_checkpoint, write_corpus
from benchmarks.support import parts
from benchmarks.support.made_up_store import BUCKET, store
from pipelines.input.columns import InputColumns
from pipelines.input.scans import Scans
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice, SliceReader
from pipelines.labelling import job
from pipelines.labelling.classify import Classify
from pipelines.labelling.commit import Commit
from pipelines.labelling.read import ReadTokenize
from pipelines.labelling.run import Resources, Run
from pipelines.labelling.work import Outcome, Work, packed, unpacked
from pipelines.output.ledger import Ledger
from pipelines.output.record import Record
from pipelines.output.storage import Storage
from pipelines.running.cluster import start_ray
from pipelines.running.ray_executor import RayExecutor
from pipelines.settings import LabelSettings

#: Slices of a shard; slices that are labelled in one night at most; shards of which one is new.
SLICES, MOST, NEW = 10, 1_000_000, 100
INPUT = f"s3://{BUCKET}/in"


@click.group()
def main() -> None:
    """Measure, and write JSON."""


part = parts.of(main, "ray", "pyarrow", "s3fs", "duckdb")


def a_shard(texts: int, random_bytes: int = 0) -> bytes:
    """A Parquet file with five columns, in row groups of 100,000 texts."""
    rows, sink, source = range(texts), io.BytesIO(), random.Random(0)
    columns = {name: [f"{name} {k}" for k in rows] for name in ("id", "text", "url", "date")}
    if random_bytes:
        columns["text"] = [source.randbytes(random_bytes // 2).hex() for _ in rows]
    table = pa.table(columns | {"number": pa.array(rows)})
    pq.write_table(table, sink, row_group_size=100_000)
    return sink.getvalue()


def read(shard: Shard, columns: InputColumns) -> None:
    """All rows of a shard."""
    piece = Slice(shard, rows := Scans().of(shard, columns).rows, 0, rows)
    with closing(SliceReader(columns)) as reader:
        assert sum(map(len, reader.read(piece))) == rows


class Recording(InProcess):
    """Gives a record for each slice, as one that has come from another process."""

    def __init__(self) -> None:
        super().__init__()
        source, at = np.random.default_rng(0), datetime(2026, 1, 1, 2, tzinfo=UTC)
        self.kinds = [a_record("", at, k, False, source) for k in range(KINDS)]

    def call(self, function: str, *arguments: Any) -> Any:
        """What the preflight says."""
        return "fp32"

    def run(
        self, run: Run, slices: list[Slice], resources: Resources
    ) -> Generator[Outcome, None, None]:
        """As in `Executor`."""
        for number, piece in enumerate(slices):
            record = replace(
                self.kinds[number % KINDS],
                run_id=run.run_id,
                shard=piece.shard.name,
                source=piece.shard.url,
                version=piece.shard.version,
                shard_rows=piece.shard_rows,
                first_row=piece.first_row,
                rows=piece.rows,
                path=piece.path,
                recipe=run.identity.recipe,
            )
            yield unpacked(packed(record))


@contextmanager
def timed() -> Iterator[Counter[str]]:
    """Seconds of the steps of a run."""
    seconds = Counter[str]()

    def watched(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            try:
                return step(*arguments, **options)
            finally:
                seconds[name] += time.monotonic() - started

        return call

    with ExitStack() as patches:
        for place, name in ((job, "find_shards"), (job, "make_plan"), (Ledger, "committed"),
                            (Ledger, "close_run"), (Ledger, "fold")):  # fmt: skip
            step = watched(name, getattr(place, name))
            patches.enter_context(mock.patch.object(place, name, step))
        yield seconds


def in_table(shards: int) -> pa.ChunkedArray:
    """The listing of `table/`."""
    ends = [f".{k * ROWS:012d}.parquet" for k in range(SLICES)]
    some = [range(k, min(k + 10_000, shards)) for k in range(0, shards, 10_000)]
    names = ([f"table/{shard_name(k)}{end}" for k in each for end in ends] for each in some)
    return pa.chunked_array([pa.array([], pa.string()), *map(pa.array, names)])


def night(work: str, shards: int, what: str) -> dict[str, Any]:
    """One night over so many shards: "plan" and "first" find an empty output, "nothing" is the
    next one, and "some" has new shards."""
    settings = LabelSettings(
        input=(INPUT,), output=f"{work}/{shards}", model=f"{work}/checkpoint", speed=0.5,
        slice_rows=ROWS,
    )  # fmt: skip
    count = shards + shards // NEW * (what == "some")
    there = in_table(0 if what in ("plan", "first") else shards)
    usual, footer = Storage.listing, a_shard(SLICES * ROWS)

    def listing(self: Storage, folder: str, suffix: str) -> Any:
        return (there, []) if folder == "table" else usual(self, folder, suffix)

    inputs = {"in": (count, lambda k: f"in/{shard_name(k)}.parquet", b"")}
    with (
        store(inputs) as asked,
        timed() as steps,
        mock.patch.object(Storage, "listing", listing),
        mock.patch.object(Shard, "open", side_effect=lambda: io.BytesIO(footer)),
    ):
        before, started = psutil.Process().memory_info().rss, time.monotonic()
        if what == "manifests":
            found, storage = find_shards([INPUT]), Storage(settings.output)
            for run in range(RUNS):  # else they would be written for the next night
                storage.put(f"stats/night-{run:03d}.parquet", b"")
            write_ledger(storage, found, identity(Path(settings.model)).recipe,
                         SLICES)  # fmt: skip
            slices = shards * SLICES
        elif what == "plan":
            slices = len(job.Job(settings).plan().todo)
        else:
            summary = job.label(settings, Recording())
            slices = summary["slices_labelled"]
            assert summary["slices_up_to_date"] == len(there)
    return {
        "slices": slices,
        "before_megabytes": round(before / 2**20),
        "seconds": round(time.monotonic() - started, 2),
        "steps": {name: round(found, 2) for name, found in steps.items()},
        "asked": dict(asked),
    }


def apart(function: str, *arguments: object) -> dict[str, Any]:
    """What a function of this file finds in a process of its own, which imports nothing else, and
    what that takes."""
    program = "import json, sys; from benchmarks.speed import at_scale; "
    program += f"print(json.dumps(at_scale.{function}(*json.loads(sys.argv[1]))))"
    given = [str(each) if isinstance(each, Path) else each for each in arguments]
    found = measured([sys.executable, "-c", program, json.dumps(given)])
    print(function, *given, found, file=sys.stderr)
    return found


def one_night(work: Path, shards: int, what: str) -> dict[str, Any]:
    """The same in a process of its own."""
    found = apart("night", work, shards, what)
    return found | found.pop("said")  # seconds without those of the imports


@part
@click.option("--shards", multiple=True, default=(10_000, 100_000, 1_000_000), show_default=True)
@click.option("--most", default=MOST, show_default=True, help="Slices labelled in one night.")
def nights(work: Path, shards: tuple[int, ...], most: int) -> Iterator[dict[str, Any]]:
    """First and following nights."""
    tiny_checkpoint(work)
    record: Any = next(iter(Recording().run(_any_run(work), [_any_slice()], None)))  # type: ignore[arg-type]
    facts, sizes = {"slices_of_a_shard": SLICES, "bytes_of_a_record": len(_text(record))}, []
    for count in shards:
        output = work / str(count)
        shutil.rmtree(output, ignore_errors=True)
        found: dict[str, Any] = {"shards": count, "plan": one_night(work, count, "plan")}
        if count * SLICES <= most:
            found["first"] = one_night(work, count, "first")
        else:
            one_night(work, count, "manifests")
        found["nothing"] = one_night(work, count, "nothing")
        found["some"] = one_night(work, count, "some")
        found["manifests"] = len(list((output / "ledger" / "manifests").iterdir()))
        found["manifest_megabytes"] = size_of(output / "ledger" / "manifests")
        sizes.append(found)
        yield facts | {"sizes": sizes}


def _text(record: Any) -> str:
    return json.dumps(asdict(record), indent=1)


def _any_slice() -> Slice:
    return Slice(Shard(f"{INPUT}/a.parquet", "a", "etag:1"), ROWS, 0, ROWS)


def _any_run(work: Path) -> Run:
    return Run(
        model="", output="", run_id="night-1", identity=identity(work / "checkpoint"),
        operating_point="", audit_rate=0, precision="fp32",
    )  # fmt: skip


@part
@click.option("--objects", default=100_000, show_default=True)
@click.option("--files", default=3_000, show_default=True)
def client(work: Path, objects: int, files: int) -> dict[str, Any]:
    """What the client of S3 takes of the driver's time and memory."""
    tiny_checkpoint(work)
    record: Any = next(iter(Recording().run(_any_run(work), [_any_slice()], None)))  # type: ignore[arg-type]
    footer, text = a_shard(SLICES * ROWS), _text(record).encode()
    large, found = a_shard(400_000, 200), {}
    shard = Shard(f"s3://{BUCKET}/large/a.parquet", "a", "etag:1")
    held = {
        "in": (objects, lambda k: f"in/{shard_name(k)}.parquet", footer),
        "few": (files, lambda k: f"few/{shard_name(k)}.parquet", footer),
        "large": (1, lambda k: "large/a.parquet", large),
        "out/table": (objects, lambda k: f"out/table/{shard_name(k)}.{0:012d}.parquet", b""),
        "out/ledger/slices": (files, lambda k: f"out/ledger/slices/{k:032x}.json", text),
    }
    with store(held) as asked:
        output, process = Storage(f"s3://{BUCKET}/out"), psutil.Process()
        records = [f"ledger/slices/{k:032x}.json" for k in range(files)]
        shards = find_shards([f"s3://{BUCKET}/few"])
        output.paths("ledger/slices", ".json")  # and the input's listing is forgotten
        columns, steps = InputColumns(), dict[str, tuple[int, Callable[[], Any]]]()
        steps["output listed"] = objects, lambda: output.listing("table", ".parquet")
        steps["footer"] = files, lambda: list(Scans().each(shards, columns))
        steps["megabyte read"] = len(large) // 10**6, lambda: read(shard, columns)
        steps["record read"] = files, lambda: output.read(records)
        steps["record removed"] = files, lambda: output.remove_all(records)
        steps["input listed"] = objects, lambda: find_shards([f"s3://{BUCKET}/in"])
        for name, (count, step) in steps.items():
            asked.clear()
            before, cpu = process.memory_info().rss, time.process_time()
            kept = step()
            cpu, after = time.process_time() - cpu, process.memory_info().rss
            found[name] = {
                "times": count,
                "microseconds": round(1e6 * cpu / count, 1),
                "bytes": max(0, round((after - before) / count)),
                "requests": {kind: round(n / count, 4) for kind, n in asked.items()},
            }
            del kept
            print(name, found[name], file=sys.stderr)
    return found


class FarApart(InProcess):
    """As on a cluster: no slice is read by who has read the one before. It may end early."""

    def __init__(self, most: int = sys.maxsize) -> None:
        super().__init__()
        self.most = most

    def run(
        self, run: Run, slices: list[Slice], resources: Resources
    ) -> Generator[Outcome, None, None]:
        """As in `Executor`."""
        read, classify, commit = ReadTokenize(run), Classify(run), Commit(run)
        for piece in slices[: self.most]:
            outcome: Record = commit(classify(read(Work(piece))))  # type: ignore[arg-type]
            read.rows.close()
            yield outcome
        if self.most < len(slices):
            raise KeyboardInterrupt


@part
@click.option("--endpoint", required=True, help="Of an S3 store.")
def requests(work: Path, endpoint: str) -> dict[str, Any]:
    """What is asked of the store, by run, shard and slice."""
    from aiobotocore.client import AioBaseClient

    checkpoint, asked = tiny_checkpoint(work), Counter[str]()
    usual = AioBaseClient._make_api_call

    async def counted(self: Any, name: str, arguments: Any) -> Any:
        key = arguments.get("Key", arguments.get("Prefix", ""))
        asked[f"{name} {'input' if key.startswith('in') else 'output'}"] += 1
        return await usual(self, name, arguments)

    def counts(root: str, slice_rows: int, executor: InProcess) -> Counter[str]:
        asked.clear()
        fsspec.filesystem("s3").invalidate_cache()
        settings = LabelSettings(
            input=(f"s3://{root}/in",), output=f"s3://{root}/out", model=checkpoint, speed=0.5,
            slice_rows=slice_rows,
        )  # fmt: skip
        with suppress(KeyboardInterrupt):
            job.label(settings, executor)
        return asked.copy()

    def corpus(shards: int) -> str:
        fs, root = fsspec.filesystem("s3"), f"at-scale-{time.time_ns()}"
        fs.mkdir(root)
        sink = io.BytesIO()
        pq.write_table(pa.table({"text": random_texts(64)}), sink)
        fs.pipe({f"{root}/in/{k}.parquet": sink.getvalue() for k in range(shards)})
        return root

    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint}  # fmt: skip
    with mock.patch.dict("os.environ", keys), \
            mock.patch.object(AioBaseClient, "_make_api_call", counted):  # fmt: skip
        counts(corpus(4), 64, FarApart())  # what the first run has listed, its client knows
        four, eight, more = (corpus(shards) for shards in (4, 8, 8))
        base, shards = counts(four, 64, FarApart()), counts(eight, 64, FarApart())
        slices, nothing = counts(more, 16, FarApart()), counts(more, 16, FarApart())
        killed, killed_later = corpus(8), corpus(8)
        counts(killed, 16, FarApart(8))
        counts(killed_later, 16, FarApart(16))
        resumed = [counts(root, 16, FarApart()) for root in (killed, killed_later)]
    found: dict[str, dict[str, int]] = {
        name: {} for name in ("run", "shard", "slice", "resumed slice")
    }
    for kind in sorted(base | shards | slices):
        of_slice = (slices[kind] - shards[kind]) / 24
        of_shard = (shards[kind] - base[kind]) / 4 - of_slice
        # Labelled when the run was killed; of all other slices the first has 8 more to label.
        of_resumed = (resumed[1][kind] - resumed[0][kind]) / 8 + of_slice
        of_run = base[kind] - 4 * of_shard - 4 * of_slice
        for name, value in zip(found, (of_run, of_shard, of_slice, of_resumed), strict=True):
            if round(value):  # what is left comes from what the client happens to remember
                found[name][kind] = round(value)
    return {"requests": found | {"night with nothing to do": dict(nothing)}}


class Watched(RayExecutor):
    """Knows how many bytes the driver holds when the last slice has come."""

    held = 0

    def run(
        self, run: Run, slices: list[Slice], resources: Resources
    ) -> Generator[Outcome, None, None]:
        """As in `Executor`."""
        yield from super().run(run, slices, resources)
        self.held = psutil.Process().memory_info().rss


@part
@click.option("--slices", multiple=True, default=(1_000, 10_000), show_default=True)
def driver(work: Path, slices: tuple[int, ...]) -> dict[str, Any]:
    """What each slice leaves in the driver's memory, on Ray, with stages that do nothing."""
    checkpoint, runs = tiny_checkpoint(work), []
    start_ray()
    for count in (100, *sorted(slices)):  # the first one to warm up
        corpus = write_corpus(work / f"in{count}", count, rows_per_shard=100)
        shutil.rmtree(work / "out", ignore_errors=True)
        executor, before = Watched(NULL_STAGES.stages), psutil.Process().memory_info().rss
        started, cpu = time.monotonic(), time.process_time()
        job.label(null_settings(corpus, work / "out", checkpoint), executor)
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        runs.append(
            {
                "slices": count,
                "megabytes": round((executor.held - before) / 2**20, 1),
                "milliseconds_per_slice": round(1e3 * seconds / count, 2),
                "of_its_own": round(1e3 * cpu / count, 2),
            }
        )
        print(runs[-1], file=sys.stderr)
    ray.shutdown()
    few, many = runs[-2:]
    more = (many["megabytes"] - few["megabytes"]) / (many["slices"] - few["slices"])
    return {"runs": runs[1:], "kilobytes_per_slice": round(1024 * more, 1)}


@part
@click.option("--rows", default=1_800_000, show_default=True, help="Of each format.")
@click.option("--files", default=6, show_default=True)
def texts(work: Path, rows: int, files: int) -> dict[str, Any]:
    """How many rows of text are counted in a second, before they can be divided into slices."""
    return {
        name: apart("counted", work / name, name, rows, files)["said"] for name in ("jsonl", "csv")
    }


def counted(place: str, name: str, rows: int, files: int) -> dict[str, Any]:
    """The same of one format."""
    folder = Path(place)
    source, columns = random.Random(0), InputColumns()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(files):
        with open(folder / f"{number}.{name}", "w", newline="") as file:
            if name == "csv":
                csv.writer(file).writerow(["id", "url", "text"])
            for k in range(rows // files):
                text = " ".join(source.choices(WORDS, k=75))
                row = {"id": k, "url": f"https://example.org/{k}", "text": text}
                if name == "csv":
                    csv.writer(file).writerow(row.values())
                else:
                    file.write(json.dumps(row) + "\n")
    shards, size = find_shards([str(folder)]), sum(p.stat().st_size for p in folder.iterdir())
    cpu = time.process_time()  # other programs do not count
    assert sum(Scans().of(shard, columns).rows for shard in shards) == rows
    cpu, started = time.process_time() - cpu, time.monotonic()
    assert sum(each.rows for each in Scans().each(shards, columns)) == rows  # type: ignore[union-attr]
    seconds = time.monotonic() - started
    return {
        "bytes_per_row": round(size / rows),
        "rows_per_second": {
            "of a core": round(rows / cpu),
            "as the job does": round(rows / seconds),
        },
    }


if __name__ == "__main__":
    main()
