"""How fast one core reads and tokenizes a corpus of each format.

Hypothesis: of gzip'd JSON Lines (.jsonl.gz), what web corpora are mostly kept as, one core reads
and tokenizes at least 0.60 times as many rows a second as of Parquet.

    python -m benchmarks.speed.formats --data DIR --work WORK \\
        --output benchmarks/results/formats.json

DIR has Parquet files with the column `text`. Half of the rows, with an id, a URL and two numbers
beside the text as crawls have them, are written to WORK in every format, compressed as their own
tools do by default (gzip's level 6, zstd's level 3). `read` is from the file to a list of str,
`read and tokenize` from the file to token ids, both by the job's own reader, in slices of its size
and in turns; `scan` is what a plan does once for a new file. The tokenizer has seen the other half
of the rows, and none of those that are measured: so a corpus comes to it. All rows are the same in
all formats, which is checked.
"""

import os

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}  # before the imports

import gzip
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from benchmarks.support.measure import interleaved, machine, ratio
from fastbert.encoders.pretrained import DEFAULT_BACKBONE, locate_backbone
from fastbert.inference.tokenizer import Tokenizer
from pipelines.input.columns import InputColumns
from pipelines.input.scans import Scans
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice, SliceReader, scan
from pipelines.input.texts import decode

SLICE_ROWS, LENGTH, TARGET = 16_384, 128, 0.60


def corpus(folder: Path, rows: int) -> pa.Table:
    """Rows as a crawl has them."""
    texts = pq.read_table(folder, columns=["text"])["text"].combine_chunks().slice(0, rows)
    numbers = range(len(texts))
    return pa.table(
        {
            "id": [f"<urn:uuid:{k:012x}>" for k in numbers],
            "url": [f"https://www.example.org/{k % 997}/{k}" for k in numbers],
            "text": texts,
            "language_score": [0.5 + k % 499 / 1000 for k in numbers],
            "bytes": pa.array([len(text.as_py().encode()) for text in texts], pa.int64()),
        }
    )


def write(table: pa.Table, folder: Path) -> None:
    """A file of each format."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    plain = lines.encode()
    pq.write_table(table, folder / "rows.parquet", compression="zstd")
    (folder / "rows.jsonl").write_bytes(plain)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(plain, 6))
    zstd = pa.Codec("zstd", compression_level=3)
    (folder / "rows.jsonl.zst").write_bytes(zstd.compress(plain, asbytes=True))
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    with pa.ipc.new_file(folder / "rows.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=SLICE_ROWS)


def measured(table: pa.Table, seen: list[str], folder: Path, rounds: int) -> dict[str, Any]:
    """Rows a second of each format, and their ratios to Parquet's."""
    plain = AutoTokenizer.from_pretrained(locate_backbone(DEFAULT_BACKBONE))
    tokenizers: dict[str, Tokenizer] = {}
    found = find_shards([str(folder)])
    shards = {shard.url.rpartition("/rows.")[2]: shard for shard in found}
    scans, columns = Scans(), InputColumns(carry=())
    assert all(scans.of(shard, columns).rows == len(table) for shard in found)
    columns = replace(columns, fields=scans.fields())
    expected = table["text"].to_pylist()

    def slices(name: str) -> list[Slice]:
        firsts = range(0, len(table), SLICE_ROWS)
        return [
            Slice(shards[name], len(table), first, min(SLICE_ROWS, len(table) - first))
            for first in firsts
        ]

    def texts(name: str) -> list[str]:
        read: list[str] = []
        with closing(SliceReader(columns)) as reader:
            for piece in slices(name):
                for part in reader.read(piece):
                    read += decode(part["text"])[0]
        return read

    def prepare() -> None:
        for name in shards:
            tokenizers[name] = Tokenizer(plain)
            assert tokenizers[name].fast
            tokenizers[name](seen, None, LENGTH)

    def tokens(name: str) -> None:
        tokenize = tokenizers[name]
        with closing(SliceReader(columns)) as reader:
            for piece in slices(name):
                for part in reader.read(piece):
                    tokenize(decode(part["text"])[0], None, LENGTH)

    def look(shard: Shard) -> Callable[[], object]:
        return lambda: scan(shard, columns)

    for name in shards:
        assert texts(name) == expected, name
    parts = {
        "read": {name: lambda name=name: texts(name) for name in shards},
        "read and tokenize": {name: lambda name=name: tokens(name) for name in shards},
        "scan": {name: look(shard) for name, shard in shards.items()},
    }
    result: dict[str, Any] = {
        "megabytes": {
            name: round((folder / f"rows.{name}").stat().st_size / 1e6, 1) for name in shards
        }
    }
    for part, contenders in parts.items():
        seconds: dict[str, list[float]] = {name: [] for name in shards}
        for turn in range(-1, rounds):
            prepare()
            for name, taken in interleaved(contenders, 1, warm_up=False).items():
                seconds[name] += taken if turn >= 0 else []
        result[part] = {
            name: {
                "rows_per_second": round(len(table) / median(seconds[name])),
                "of_parquet": ratio(seconds, "parquet", name),
            }
            for name in shards
        }
        print(part, json.dumps(result[part]), flush=True)
    return result


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--rows", default=120_000, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(data: Path, work: Path, output: Path, rows: int, rounds: int) -> None:
    """Measure, check, write JSON."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    everything = corpus(data, rows)
    half = len(everything) // 2
    seen, table = everything["text"][:half].to_pylist(), everything.slice(half)
    write(table, work)
    here = machine("nanotoken", "pyarrow")
    print(here)
    result = {
        "machine": here,
        "tokenizer": DEFAULT_BACKBONE,
        "rows": len(table),
        "seen_rows": len(seen),
        "bytes_per_text": round(sum(table["bytes"].to_pylist()) / len(table), 1),
        "tokens_at_most": LENGTH,
        "target": {"jsonl.gz of parquet": TARGET},
        **measured(table, seen, work, rounds),
    }
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
