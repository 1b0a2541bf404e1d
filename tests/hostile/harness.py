"""Kinds of input: each is one hostile shard, or folder of them, beside a good one."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.shards import random_texts, write_shard

from fastbert.exits.question import ANSWERS, Kind, prefix
from pipelines.output.schema import output_schema

GOOD = random_texts(8, seed=1)
TEXTS = random_texts(20, seed=2)
ODD = {
    "10-mb": "the red river " * 750_000,
    "one-huge-word": "x" * 2_000_000,
    "one-huge-unknown-word": "\u4e2d" * 500_000,
    "unknown-characters": "\u16a0\u16a1\u16a2 \U000e0041 \ue000",
    "nul": "the\0red\0",
    "only-nul": "\0",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f the",
    "zero-width": "\u200b\u200c\u200d\u2060\ufeff",
    "bidi": "\u202ethe red\u202c \u2066river\u2069 \u05d0\u05d1",
    "combining": "Z" + "\u0301\u0323" * 5000 + " a\u0308",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0001f44d",
    "non-characters": "\ufffe\uffff\U0010ffff \ufffd",
    "special-tokens": "[CLS] [SEP] [MASK] [PAD] [UNK] [SEP] [SEP]",
    "markup": "<script>alert(1)</script> '; drop table labels; -- {{7*7}} %s %n ${HOME}",
}


@dataclass
class Expected:
    """What becomes of a kind."""

    #: By shard name: the table that went in. All of its rows must come out.
    good: dict[str, pa.Table] = field(default_factory=dict)
    #: By shard file, below the input: what the reason must say.
    bad: dict[str, str] = field(default_factory=dict)
    #: By shard file: may be bad for that reason, or have all rows that went in.
    either: dict[str, tuple[str, pa.Table]] = field(default_factory=dict)
    #: What the errors of rows must say. All other rows have a label.
    errors: dict[int, str] = field(default_factory=dict)
    #: Only where the columns are those of one label.
    of_one_label: bool = False
    #: Of the job.
    settings: dict[str, Any] = field(default_factory=dict)
    #: Done between plan and read.
    meanwhile: Callable[[], object] | None = None


Build = Callable[[Path], Expected]


class Kinds(dict[str, Build]):
    """Kinds of input, by name."""

    def add(self, build: Build) -> Build:
        """Register a kind under the function's name."""
        self[build.__name__] = build
        return build

    def each(self, name: str, values: dict[str, Any]) -> Callable[[Callable[..., Expected]], None]:
        """Register one kind per value."""

        def register(build: Callable[..., Expected]) -> None:
            for key, value in values.items():
                self[f"{name}-{key}"] = lambda folder, value=value: build(folder, value)

        return register


def check_kind(build: Build, root: Path, job: Callable[..., dict[str, Any]]) -> None:
    """Label a good shard with what `build` puts beside it, twice; the second time is no work."""
    (root / "in").mkdir()
    write_shard(root / "in" / "good.parquet", GOOD)
    expected = build(root / "in")
    if expected.of_one_label and job.kinds != {"": "single-label"}:
        pytest.skip("of columns that only a single label has")
    before = everything(root)
    summary = job(**expected.settings)
    check(expected, summary, root, job.kinds)
    assert everything(root) - everything(root / "out") - {str(root / "out")} == before
    written = everything(root / "out")
    again = job(**expected.settings)
    assert again["bad_shards"] == summary["bad_shards"]
    assert again["slices_labelled"] == 0
    assert again["exit_code"] == summary["exit_code"]
    tables = {path for path in written if path.endswith(".parquet") and "/table/" in path}
    assert {path for path in everything(root / "out") if path in tables} == tables


def everything(folder: Path) -> set[str]:
    """All that is in a folder, whatever it is called."""
    found = set()
    for root, folders, files in os.walk(folder):
        found |= {os.path.join(root, name) for name in folders + files}
    return found


def bad_file(url: str, root: Path) -> str:
    """The file of a bad shard, below the input."""
    return url.removeprefix(f"file://{root}/in/")


def rows_of(output: Path, name: str) -> pa.Table:
    """The labelled rows of a shard, in order."""
    folder = (output / "table" / name).parent
    pattern = re.escape(Path(name).name) + r"\.\d{12}\.parquet"
    parts = sorted(p for p in os.listdir(folder) if re.fullmatch(pattern, p, re.DOTALL))
    assert parts, f"no labelled rows of {name!r}"
    return pa.concat_tables(pq.ParquetFile(folder / part).read() for part in parts)


def check_rows(
    out: pa.Table, table: pa.Table, expected: Expected, kinds: Mapping[str, Kind]
) -> None:
    """Every row in is a row out: the same order, carried columns as they were, answers or error."""
    assert out.num_rows == table.num_rows
    ours = output_schema(kinds).names
    carry = expected.settings.get("carry") or [n for n in table.column_names if n != "text"]
    names = [f"input_{name}" if name in ours else name for name in carry]
    assert out.column_names == [*names, *ours]
    for name, renamed in zip(carry, names, strict=True):
        assert out[renamed].type == table[name].type
        assert out[renamed].equals(table[name]), f"column {name!r} was changed"
    answers = [prefix(name) + ANSWERS[kind].names[0] for name, kind in kinds.items()]
    labels = out[answers[0]].to_pylist()
    for i, error in enumerate(out["error"].to_pylist()):
        given = {out[name][i].is_valid for name in answers}
        if i in expected.errors:
            assert given == {False}
            assert re.search(expected.errors[i], error)
        else:
            assert (given, error) == ({True}, None)
            assert labels[i] in {"ape", "bee", "cow", "dog", "eel"}


def write(folder: Path, table: pa.Table, name: str = "x", **options: Any) -> Expected:
    """Write a shard; all of its rows are expected, as Arrow reads them."""
    path = folder / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    file = pq.ParquetFile(path)
    groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
    back = pa.concat_tables(groups) if groups else file.schema_arrow.empty_table()
    assert back.num_rows == table.num_rows
    return Expected(good={name: back})


def numbered(texts: Any, **columns: Any) -> pa.Table:
    """A table of texts whose rows can be told apart."""
    return pa.table({"text": texts, "id": range(len(texts)), **columns})


def bad(folder: Path, reason: str, name: str = "x.parquet") -> Expected:
    """A shard that is refused."""
    return Expected(bad={name: reason})


def parquet_bytes(folder: Path, **options: Any) -> bytes:
    """A valid shard's bytes, to be spoiled."""
    write(folder, numbered(random_texts(300)), **options)
    return (folder / "x.parquet").read_bytes()


def check(
    expected: Expected, summary: dict[str, Any], root: Path, kinds: Mapping[str, Kind]
) -> None:
    """The output is as expected."""
    found = {bad_file(url, root): reason for url, reason in summary["bad_shards"].items()}
    good = dict(expected.good)
    for file, (reason, table) in expected.either.items():
        if file in found:
            assert re.search(reason, found.pop(file))
        else:
            assert rows_of(root / "out", file.removesuffix(".parquet")).num_rows == table.num_rows
    assert found.keys() == expected.bad.keys()
    for file, reason in expected.bad.items():
        assert re.search(reason, found[file], re.DOTALL), found[file]
    for name, table in good.items():
        check_rows(rows_of(root / "out", name), table, expected, kinds)
    carry = expected.settings.get("carry") or ["id"]
    beside = pa.table({"text": GOOD, "id": range(len(GOOD))}).select(["text", *carry])
    alone = Expected(settings=expected.settings)
    check_rows(rows_of(root / "out", "good"), beside, alone, kinds)
    assert summary["exit_code"] == (3 if summary["bad_shards"] else 0)
    folders = {path.name for path in (root / "out").iterdir()}
    assert folders <= {"table", "ledger", "stats", "staging"}
    assert not list((root / "out").glob("staging/*"))
    assert not [path for path in (root / "out").rglob("*") if path.is_symlink()]
