"""Text of any kind: no line is lost, none is there twice, and none depends on its neighbours."""

import csv
import io
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.input.columns import InputColumns
from pipelines.input.formats import delimited, text
from pipelines.input.formats.format import BROKEN
from pipelines.input.scans import Scans
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice, SliceReader
from pipelines.input.unreadable import ShardError

PIECES = {
    "x.jsonl": [
        b'{"text": "',
        b'", "n": ',
        b"}",
        b"{",
        b"[",
        b"]",
        b'"',
        b"\\",
        b"\\u",
        b"d83d",
        b"\n",
        b"\r\n",
        b"\xff",
        b"\xef\xbb\xbf",
        b",",
        b":",
        b"null",
        b"true",
        b"1",
        b"-0.5e9",
        b"NaN",
        b" ",
        b"\t",
        b"\0",
        b'{"text": "the", "n": 1}\n',
        b'{"text": "red"}\n',
        b'{"text": 7}\n',
        b'{"n": [1, "a"]}\n',
        b'{"text": "a", "text": "b"}\n',
        b'{"text":"x","n":{"a":{"b":null}}}\n',
        "caf\u00e9".encode(),
    ],
    "x.csv": [
        b'"',
        b'""',
        b",",
        b";",
        b"\t",
        b"\n",
        b"\r\n",
        b"\r",
        b"the",
        b"1",
        b"007",
        b" ",
        b"\xff",
        b"\0",
        b'1,"a\nb"\n',
        b"2,the red\n",
        b'3,"say ""so"""\n',
        b"4\n",
        b"5,a,b\n",
        b'"',
        b"1.5",
        "caf\u00e9".encode(),
        b"true",
    ],
}
BEGINS = {"x.jsonl": b'{"text": "first", "n": 0}\n', "x.csv": b"n,text\n0,first\n"}


def anything(name: str, generator: np.random.Generator) -> bytes:
    some = generator.integers(0, len(PIECES[name]), generator.integers(1, 60))
    return BEGINS[name] + b"".join(PIECES[name][k] for k in some)


def rows_of(shard: Shard, columns: InputColumns, pieces: list[Slice]) -> list[dict]:
    with closing(SliceReader(columns)) as reader:
        tables = [table for piece in pieces for table in reader.read(piece)]
    rows: list[dict] = pa.concat_tables(tables).to_pylist()
    return rows


def check(path: Path, data: bytes, generator: np.random.Generator) -> str:
    path.write_bytes(data)
    (shard,) = find_shards([str(path)])
    scans = Scans()
    try:
        scan = scans.of(shard, InputColumns())
    except ShardError:
        return "refused"
    columns = replace(InputColumns(), fields=scans.fields())
    whole = rows_of(shard, columns, [Slice(shard, scan.rows, 0, scan.rows)])
    assert len(whole) == scan.rows
    size = int(generator.integers(1, 6))
    pieces = [
        Slice(shard, scan.rows, first, min(size, scan.rows - first), scan.start(first))
        for first in range(0, scan.rows, size)
    ]
    assert repr(rows_of(shard, columns, pieces)) == repr(whole)  # NaN is not NaN
    assert whole[0]["text"] == "first"
    for row in whole:
        assert row[BROKEN.name] is None or row["text"] is None
    if path.name == "x.jsonl":
        lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
        assert len(lines) == scan.rows
        for number, line in enumerate(lines):
            path.write_bytes(BEGINS[path.name] + line)
            row = rows_of(shard, columns, [Slice(shard, 2, 1, 1)])
            assert repr(row) == repr([whole[number]])
    else:
        # Where no record is refused by itself, they are those of `csv`.
        wrong = [row[BROKEN.name] or "" for row in whole]
        if not any(error.startswith("line is not CSV") for error in wrong):
            file = io.StringIO(data.decode(errors="surrogateescape"), newline="")
            cells = [each for each in csv.reader(file) if each][1:]
            assert len(cells) == len(whole)
            for row, each, error in zip(whole, cells, wrong, strict=True):
                assert error or [row["text"]] == each[1:]
    return "errors" if any(row[BROKEN.name] for row in whole) else "read"


@pytest.mark.parametrize("name", PIECES)
def test_lines_of_anything(repeat, tmp_path, monkeypatch, request, name):
    seeds = np.random.SeedSequence(None if request.config.getoption("--fuzz-minutes") else 5)
    generator = np.random.default_rng(seeds)
    outcomes: dict[str, int] = {}

    def some() -> None:
        for _ in range(60):
            block = int(generator.choice([7, 64, 1 << 20]))
            for module in (text, delimited):
                monkeypatch.setattr(module, "BLOCK_BYTES", block)
            monkeypatch.setattr(delimited, "_LONGEST_CELL", int(generator.choice([30, 1 << 20])))
            data = anything(name, generator)
            try:
                said = check(tmp_path / name, data, generator)
            except BaseException:
                print(block, delimited._LONGEST_CELL, data.hex())
                raise
            outcomes[said] = outcomes.get(said, 0) + 1

    repeat(name, some)
    print(f"files: {outcomes}")
    assert outcomes["read"]
    assert outcomes["errors"]
