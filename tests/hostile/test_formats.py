"""Formats beside Parquet: the same hostile kinds, and those of their own."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.formats import ENCODED, delimited, json_lines

from hostile.harness import ODD, TEXTS, Expected, Kinds, bad, check_kind, numbered

KINDS = Kinds()
FORMATS = {name: encode for name, encode in ENCODED.items() if name != "x.parquet"}
TABLE = numbered(TEXTS)


def write(folder: Path, name: str, data: bytes, table: pa.Table, **more: Any) -> Expected:
    (folder / name).write_bytes(data)
    return Expected(good={name: table}, of_one_label=True, **more)


def encoded(name: str) -> Callable[[Path], Expected]:
    return lambda folder: write(folder, name, FORMATS[name](TABLE), TABLE)


def unusable(name: str) -> Callable[[Path], Expected]:
    texts = ["", " \t ", "\u3000\xa0", *TEXTS]
    errors = dict.fromkeys(range(3), "text is empty")
    if "sv" not in name:  # which has no null
        texts, errors = (
            [None, *texts],
            {0: "text is null"} | dict.fromkeys(range(1, 4), "text is empty"),
        )
    table = numbered(pa.array(texts, pa.string()))
    return lambda folder: write(folder, name, FORMATS[name](table), table, errors=errors)


def odd(name: str) -> Callable[[Path], Expected]:
    odd = [text for text in ODD.values() if len(text) < 20_000]
    table = numbered([*TEXTS[:5], *odd, *TEXTS[5:]])
    return lambda folder: write(folder, name, FORMATS[name](table), table)


for _name in FORMATS:
    KINDS[f"{_name}-as it should be"] = encoded(_name)
    KINDS[f"{_name}-texts that cannot be used"] = unusable(_name)
    KINDS[f"{_name}-odd texts"] = odd(_name)


def lines(*some: bytes | None) -> bytes:
    """Good lines with others between them."""
    good = json_lines(TABLE).splitlines(keepends=True)
    return b"".join([good[0], *(line + b"\n" for line in some if line is not None), *good[1:]])


BROKEN = {
    "not json": b"hello",
    "cut off": b'{"text": "the red',
    "two objects": b'{"text": "the"} {"text": "red"}',
    "an array": b'["the"]',
    "text of another type": b'{"text": 7, "id": 1}',
    "not UTF-8": b'{"text": "caf\xe9", "id": 1}',
    "half of a pair": b'{"text": "\\ud83d", "id": 1}',
    "nested without end": b'{"text": ' + b"[" * 200_000,
}


@KINDS.each("jsonl-line", BROKEN)
def broken_line(folder: Path, line: bytes) -> Expected:
    none = pa.table({"text": pa.nulls(1, pa.string()), "id": pa.nulls(1, pa.int64())})
    table = pa.concat_tables([TABLE.slice(0, 1), none, TABLE.slice(1)])
    expected = write(folder, "x.jsonl", lines(line), table)
    expected.errors = {1: "line|field 'text'"}
    return expected


@KINDS.each(
    "jsonl",
    {
        "byte order mark": b"\xef\xbb\xbf" + json_lines(TABLE),
        "blank lines": b"\n \n" + json_lines(TABLE).replace(b"\n", b"\n\n\t\r\n"),
        "carriage returns": json_lines(TABLE).replace(b"\n", b"\r\n"),
        "no end of line": json_lines(TABLE).rstrip(),
        "members of gzip": json_lines(TABLE),
    },
)
def jsonl(folder: Path, data: bytes) -> Expected:
    return write(folder, "x.jsonl", data, TABLE)


@KINDS.add
def gzip_of_several_members(folder: Path) -> Expected:
    data = b"".join(gzip.compress(line) for line in json_lines(TABLE).splitlines(keepends=True))
    return write(folder, "x.jsonl.gz", data, TABLE)


REFUSED = {
    "array.jsonl": b'[{"text": "a"}]',
    "utf-16.jsonl": json_lines(TABLE).decode().encode("utf-16"),
    "utf-16.csv": delimited(TABLE).decode().encode("utf-16"),
    "nothing.jsonl": b"\0" * 1000,
    "other.jsonl": b'{"body": "a"}\n',
    "other.csv": b"body\na\n",
    "cut.jsonl.gz": FORMATS["x.json.gz"](TABLE)[:-9],
    "cut.jsonl.zst": FORMATS["x.jsonl.zst"](TABLE)[:-9],
    "no.jsonl.gz": json_lines(TABLE),
    "cut.arrow": FORMATS["x.arrow"](TABLE)[:-9],
    "cut-stream.arrow": FORMATS["stream.arrow"](TABLE)[:-100],
    "no.arrow": b"hello",
    "empty.arrow": b"",
}


@KINDS.each("refused", {name: (name, data) for name, data in REFUSED.items()})
def refused(folder: Path, value: tuple[str, bytes]) -> Expected:
    name, data = value
    (folder / name).write_bytes(data)
    expected = bad(folder, "cannot be read|is one JSON array|is UTF-16|has no", name)
    expected.of_one_label = True
    return expected


@KINDS.each("csv", {
    "cells too few": b"the red river\n",
    "cells too many": b"the red river,1,2\n",
    "not UTF-8": b"caf\xe9,1\n",
    "a quote that never ends": b'"the red,1\n',
})  # fmt: skip
def csv_line(folder: Path, line: bytes) -> Expected:
    first, *rest = delimited(TABLE).splitlines(keepends=True)
    none = pa.table({"text": pa.nulls(1, pa.string()), "id": pa.nulls(1, pa.int64())})
    expected = write(
        folder, "x.csv", b"".join([first, line, *rest]), pa.concat_tables([none, TABLE])
    )
    expected.errors = {0: "line is not CSV|line has|column 'text' is not UTF-8"}
    return expected


@KINDS.each("none", {name: name for name in ("x.jsonl", "x.csv", "x.jsonl.gz")})
def no_rows(folder: Path, name: str) -> Expected:
    empty = b"" if name != "x.csv" else b"text,id\n"
    data = gzip.compress(empty) if name.endswith("gz") else empty
    (folder / name).write_bytes(data)
    return Expected(of_one_label=True)


@pytest.mark.parametrize("name", KINDS)
def test_formats(name, tmp_path, job):
    check_kind(KINDS[name], tmp_path, job)
