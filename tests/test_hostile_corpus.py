"""Whatever lies in the input: a row in is a row out, or its shard is a bad one with a reason.

Each kind is one hostile shard, or folder of them, beside a good one. No Ray: the stages run in this
process, with the same trips between processes.
"""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from time import process_time
from typing import Any

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from support.shards import random_texts, write_shard
from support.stages import in_process

import pipelines.labelling.job
import pipelines.running.ray_data
from fastbert.errors import InputError
from pipelines.input.columns import InputColumns
from pipelines.input.shards import find_shards
from pipelines.labelling.job import label
from pipelines.labelling.plan import make_plan
from pipelines.output.ledger import Committed
from pipelines.output.lock import RunLock
from pipelines.output.schema import OUTPUT
from pipelines.running.ray_data import Share
from pipelines.settings import LabelSettings

GOOD = random_texts(8, seed=1)
TEXTS = random_texts(20, seed=2)


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
    #: Output name of carried columns that are renamed.
    renamed: dict[str, str] = field(default_factory=dict)
    #: Of the job.
    settings: dict[str, Any] = field(default_factory=dict)
    #: Done between plan and read.
    meanwhile: Callable[[], object] | None = None


Kind = Callable[[Path], Expected]
KINDS: dict[str, Kind] = {}


def kind(build: Kind) -> Kind:
    """Register a kind under the function's name."""
    KINDS[build.__name__] = build
    return build


def kinds(name: str, parameters: dict[str, Any]) -> Callable[[Callable[..., Expected]], None]:
    """Register one kind per parameter."""

    def register(build: Callable[..., Expected]) -> None:
        for key, value in parameters.items():
            KINDS[f"{name}-{key}"] = lambda folder, value=value: build(folder, value)

    return register


# --- running


@pytest.fixture
def job(tmp_path, checkpoint, monkeypatch):
    """Labels `in` to `out`; `meanwhile` happens between plan and read."""
    share = Share(0, 1, 1, 0.5)
    monkeypatch.setattr(pipelines.running.ray_data, "run_stages", in_process)
    monkeypatch.setattr(pipelines.labelling.job, "RunLock", lambda s, r: RunLock(s, r, settle=0))

    def run(meanwhile=None, inputs=("in",), **settings) -> dict[str, Any]:
        def share_of_cluster(_):
            if meanwhile:
                meanwhile()
            return share

        monkeypatch.setattr(pipelines.running.ray_data, "share_of_cluster", share_of_cluster)
        defaults = dict(speed=0.5, max_bad_rows=1.0, slice_rows=1000)
        return label(
            LabelSettings(
                input=tuple(str(tmp_path / name) for name in inputs),
                output=str(tmp_path / "out"),
                model=checkpoint,
                **defaults | settings,
            )
        )

    return run


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


def check_rows(out: pa.Table, table: pa.Table, expected: Expected) -> None:
    """Every row in is a row out: the same order, carried columns as they were, label or error."""
    assert out.num_rows == table.num_rows
    carry = expected.settings.get("carry") or [n for n in table.column_names if n != "text"]
    names = [expected.renamed.get(name, name) for name in carry]
    assert out.column_names == [*names, *OUTPUT.names]
    for name, renamed in zip(carry, names, strict=True):
        assert out[renamed].type == table[name].type
        assert out[renamed].equals(table[name]), f"column {name!r} was changed"
    for i, (found, error) in enumerate(
        zip(out["label"].to_pylist(), out["error"].to_pylist(), strict=True)
    ):
        if i in expected.errors:
            assert found is None
            assert re.search(expected.errors[i], error)
        else:
            assert (found in {"ape", "bee", "cow", "dog", "eel"}, error) == (True, None)


# --- texts


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


def raw_strings(values: list[bytes]) -> pa.Array:
    """A string array of any bytes: Arrow does not look."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


FIRST_ROW_EMPTY = {
    "null": (None, "text is null"),
    "empty": ("", "text is empty"),
    "spaces": (" \t\n ", "text is empty"),
    "unicode-spaces": ("\u3000\u2003\xa0\u2028", "text is empty"),
}


@kinds("text", FIRST_ROW_EMPTY)
def unusable_text(folder: Path, value: tuple[str | None, str]) -> Expected:
    expected = write(folder, numbered(pa.array([value[0], *TEXTS], pa.string())))
    expected.errors = {0: value[1]}
    return expected


@kinds(
    "text",
    {
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
    },
)
def odd_text(folder: Path, text: str) -> Expected:
    return write(folder, numbered([*TEXTS[:5], text, *TEXTS[5:]]))


@kinds(
    "bytes",
    {
        "lone-surrogate": b"the \xed\xa0\x80 river",
        "latin-1": "caf\xe9 the".encode("latin-1"),
        "truncated": "the \u4e2d".encode()[:-1],
        "overlong": b"\xc0\xaf",
        "too-high": b"\xf4\x90\x80\x80",
        "random": bytes(range(256)),
    },
)
def text_not_utf8(folder: Path, value: bytes) -> Expected:
    texts = raw_strings([b"the red", value, b"", b"river"])
    expected = write(folder, numbered(texts, more=texts))
    expected.errors = {1: "text is not UTF-8: .* at byte", 2: "text is empty"}
    return expected


@kinds(
    "text-type",
    {
        "dictionary": lambda: pa.array([None, *TEXTS, *TEXTS]).dictionary_encode(),
        "large": lambda: pa.array([None, *TEXTS], pa.large_string()),
        "view": lambda: pa.array([None, *TEXTS], pa.string_view()),
        "dictionary-of-large": lambda: pa.array(
            [None, *TEXTS], pa.large_string()
        ).dictionary_encode(),
    },
)
def text_type(folder: Path, make: Callable[[], pa.Array]) -> Expected:
    expected = write(folder, numbered(make()))
    expected.errors = {0: "text is null"}
    return expected


@kinds(
    "text-type",
    {
        "binary": (pa.binary(), b"the"),
        "list": (pa.list_(pa.string()), ["the"]),
        "int": (pa.int64(), 7),
        "struct": (pa.struct([("a", pa.string())]), {"a": "the"}),
        "null": (pa.null(), None),
        "dictionary-of-int": (pa.dictionary(pa.int32(), pa.int64()), 7),
    },
)
def text_of_wrong_type(folder: Path, value: tuple[pa.DataType, Any]) -> Expected:
    array = pa.array([value[1]] * 3, value[0])
    pq.write_table(numbered(array), folder / "x.parquet")
    return bad(folder, "column 'text' is of type [^ ]+( string>)?, expected string")


# --- columns


@kind
def text_missing(folder: Path) -> Expected:
    pq.write_table(pa.table({"body": TEXTS, "Text": TEXTS}), folder / "x.parquet")
    return bad(folder, "has no column 'text'; its columns are body, Text")


@kind
def text_twice(folder: Path) -> Expected:
    table = pa.table([TEXTS, TEXTS], names=["text", "text"])
    pq.write_table(table, folder / "x.parquet")
    return bad(folder, "has more than one column 'text'")


@kind
def carried_column_twice(folder: Path) -> Expected:
    table = pa.table([TEXTS, range(20), range(20)], names=["text", "id", "id"])
    pq.write_table(table, folder / "x.parquet")
    return bad(folder, "columns cannot be told apart: id, id; choose with --carry")


@kind
def twice_but_not_carried(folder: Path) -> Expected:
    table = pa.table([TEXTS, range(20), range(20), range(20)], names=["text", "a", "a", "id"])
    pq.write_table(table, folder / "x.parquet")
    columns = {"text": TEXTS, "id": range(20)}
    return Expected(good={"x": pa.table(columns)}, settings={"carry": ("id",)})


@kind
def carried_like_ours(folder: Path) -> Expected:
    ours = {name: [f"{name} {i}" for i in range(20)] for name in OUTPUT.names}
    expected = write(folder, numbered(TEXTS, **ours))
    expected.renamed = {name: f"input_{name}" for name in OUTPUT.names}
    return expected


@kind
def carried_like_ours_and_its_new_name(folder: Path) -> Expected:
    write(folder, numbered(TEXTS, label=TEXTS, input_label=TEXTS))
    return bad(folder, "two carried columns would be called 'input_label'; choose with --carry")


@kind
def carried_name_with_nul(folder: Path) -> Expected:
    pq.write_table(numbered(TEXTS, **{"\0ids": TEXTS}), folder / "x.parquet")
    return bad(folder, "cannot be told apart|NUL")


@kinds(
    "column-name",
    {
        "emoji": "\U0001f44d",
        "blank": " ",
        "empty": "",
        "dots": "a.b.c",
        "like-a-path": "text.list.element",
        "dot": ".",
        "newline": "a\nb",
        "quotes": "\"'`;--",
        "long": "n" * 10_000,
        "case": "TEXT",
    },
)
def column_name(folder: Path, column: str) -> Expected:
    return write(folder, numbered(TEXTS, **{column: TEXTS}, a=range(20)))


@kind
def dotted_name_beside_a_struct(folder: Path) -> Expected:
    """`iter_batches` takes `a.b` for the struct's field too."""
    struct = pa.array([{"b": i, "c": i} for i in range(20)])
    return write(folder, numbered(TEXTS, **{"a": struct, "a.b": TEXTS}))


@kind
def text_is_prefix_of_another_column(folder: Path) -> Expected:
    return write(folder, numbered(TEXTS, **{"text.more": TEXTS, "text2": TEXTS}))


def twenty(kind: pa.DataType | None, *values: Any) -> pa.Array:
    """Twenty values of a type, by turns, and null."""
    return pa.array([[*values, None][i % (len(values) + 1)] for i in range(20)], kind)


DAY = datetime(2026, 11, 24, 1, 2, 3, 456789)
CARRIED: dict[str, Callable[[], pa.Array]] = {
    "list": lambda: twenty(pa.list_(pa.int64()), [1, None], []),
    "large-list": lambda: twenty(pa.large_list(pa.string()), ["a", None], []),
    "fixed-size-list": lambda: twenty(pa.list_(pa.float32(), 2), [1.0, 2.0]),
    "list-of-list": lambda: twenty(pa.list_(pa.list_(pa.string())), [["a"], None, []], []),
    "struct": lambda: twenty(None, {"a": 1, "b": None}, {"a": None, "b": "x"}),
    "struct-in-list-in-struct": lambda: twenty(None, {"a": [{"b": [1, None]}, None]}),
    "map": lambda: twenty(pa.map_(pa.string(), pa.int64()), [("a", 1), ("b", None)], []),
    "decimal": lambda: twenty(pa.decimal128(38, 10), Decimal("-1.5"), Decimal("9" * 28)),
    "decimal256": lambda: twenty(pa.decimal256(70, 0), Decimal("9" * 70)),
    "zoned-timestamp": lambda: twenty(pa.timestamp("us", "Asia/Kathmandu"), DAY),
    "odd-zone": lambda: twenty(pa.timestamp("ns", "+05:45"), DAY),
    "timestamp-far": lambda: twenty(pa.timestamp("ms"), -(2**62), 2**62),
    "timestamp-seconds": lambda: twenty(pa.timestamp("s"), DAY.replace(microsecond=0)),
    "duration": lambda: twenty(pa.duration("ns"), timedelta(days=-3), timedelta(1)),
    "float16": lambda: twenty(pa.float16(), np.float16(1.5), np.float16("inf")),
    "binary": lambda: twenty(pa.binary(), b"\0\xff", b""),
    "large-binary": lambda: twenty(pa.large_binary(), b"\0\xff", b""),
    "binary-view": lambda: twenty(pa.binary_view(), b"\0\xff", b"longer than twelve bytes"),
    "string-view": lambda: twenty(pa.string_view(), "short", "longer than twelve bytes"),
    "fixed-binary": lambda: twenty(pa.binary(3), b"abc", b"\0\0\0"),
    "dictionary": lambda: twenty(pa.string(), "a", "b").dictionary_encode(),
    "ordered-dictionary": lambda: pa.DictionaryArray.from_arrays(
        twenty(pa.int8(), 0, 1), ["low", "high"], ordered=True
    ),
    "list-view": lambda: twenty(pa.list_view(pa.int64()), [1, None], []),
    "decimal32": lambda: twenty(pa.decimal32(5, 2), Decimal("1.5")),
    "date": lambda: twenty(pa.date32(), date(1, 1, 1), date(9999, 12, 31)),
    "date64": lambda: twenty(pa.date64(), date(2026, 11, 24)),
    "time": lambda: twenty(pa.time64("us"), time(23, 59, 59, 999999)),
    "time32": lambda: twenty(pa.time32("ms"), time(1, 2)),
    "bool": lambda: twenty(pa.bool_(), True, False),
    "uint64": lambda: twenty(pa.uint64(), 2**64 - 1, 0),
    "all-null": lambda: twenty(pa.null()),
    "all-null-strings": lambda: twenty(pa.string()),
    "nested-nulls": lambda: twenty(pa.list_(pa.null()), [None], []),
    "uuid": lambda: pa.ExtensionArray.from_storage(pa.uuid(), twenty(pa.binary(16), b"x" * 16)),
    "json": lambda: pa.ExtensionArray.from_storage(pa.json_(), twenty(pa.string(), "{}")),
    "empty-struct-name": lambda: twenty(None, {"": 1}),
    "deep-structs": lambda: twenty(None, *[_deep(30, lambda inner: {"a": inner})]),
    "deep-lists": lambda: twenty(None, *[_deep(30, lambda inner: [inner, None])]),
}


def _deep(levels: int, around: Callable[[Any], Any]) -> Any:
    value: Any = 7
    for _ in range(levels):
        value = around(value)
    return value


@kinds("carried", CARRIED)
def carried_type(folder: Path, make: Callable[[], pa.Array]) -> Expected:
    """In slices of 7 rows, read from row groups of 3."""
    expected = write(folder, numbered(TEXTS, extra=make()), row_group_size=3)
    expected.settings = {"slice_rows": 7}
    return expected


NESTED_DICTIONARIES: dict[str, Callable[[], pa.Array]] = {
    "list": lambda: pa.ListArray.from_arrays(
        pa.array(range(21), pa.int32()), twenty(pa.string(), "a", "b").dictionary_encode()
    ),
    "struct": lambda: pa.StructArray.from_arrays(
        [twenty(pa.string(), "a", "b").dictionary_encode()], ["d"]
    ),
}


@kinds("dictionary-in", NESTED_DICTIONARIES)
def nested_dictionary(folder: Path, make: Callable[[], pa.Array]) -> Expected:
    expected = write(folder, numbered(TEXTS, extra=make()))
    expected.settings = {"slice_rows": 7}
    return expected


@kinds("dictionaries-in", NESTED_DICTIONARIES)
def nested_dictionaries(folder: Path, make: Callable[[], pa.Array]) -> Expected:
    """One per row group: Arrow cannot read those."""
    write(folder, numbered(TEXTS, extra=make()), row_group_size=3)
    return bad(folder, "cannot be read as Parquet: Nested data conversions not implemented")


@kind
def int96_timestamps(folder: Path) -> Expected:
    stamps = twenty(pa.timestamp("ns"), DAY)
    return write(folder, numbered(TEXTS, at=stamps), use_deprecated_int96_timestamps=True)


@kind
def pandas_index(folder: Path) -> Expected:
    table = numbered(TEXTS, __index_level_0__=range(20))
    return write(folder, table.replace_schema_metadata({"pandas": '{"index_columns": [1'}))


@kind
def nonsense_metadata(folder: Path) -> Expected:
    metadata = {b"\xff": b"\0" * 1000, b"fastbert.source": b"mine", b"": b""}
    return write(folder, numbered(TEXTS).replace_schema_metadata(metadata))


@kind
def broken_arrow_schema(folder: Path) -> Expected:
    data = parquet_bytes(folder)
    assert b"/////" in data  # how Arrow's schema begins, in base64
    (folder / "x.parquet").write_bytes(data.replace(b"/////", b"!!!!!"))
    return bad(folder, "cannot be read as Parquet")


@kind
def column_name_not_utf8(folder: Path) -> Expected:
    write(folder, numbered(TEXTS, abcdefg=TEXTS), store_schema=False)
    data = (folder / "x.parquet").read_bytes()
    (folder / "x.parquet").write_bytes(data.replace(b"abcdefg", b"abc\xff\xfefg"))
    return bad(folder, "cannot be read as Parquet: .*utf-8")


@kind
def required_columns(folder: Path) -> Expected:
    schema = pa.schema([pa.field("text", pa.string(), False), pa.field("id", pa.int64(), False)])
    return write(folder, numbered(TEXTS).cast(schema))


@kind
def very_wide(folder: Path) -> Expected:
    return write(folder, numbered(TEXTS, **{f"c{i}": range(20) for i in range(2000)}))


@kind
def different_schemas(folder: Path) -> Expected:
    expected = Expected()
    for name, extra in (("a", [1] * 20), ("b", ["x"] * 20), ("c", [[1.5]] * 20)):
        expected.good |= write(folder, numbered(TEXTS, extra=extra), name).good
    expected.good |= write(folder, pa.table({"text": TEXTS}), "d").good
    return expected


# --- rows and row groups


@kind
def zero_rows(folder: Path) -> Expected:
    return write(folder, numbered(pa.array([], pa.string())))


@kind
def zero_row_groups(folder: Path) -> Expected:
    table = numbered(pa.array([], pa.string()))
    with pq.ParquetWriter(folder / "x.parquet", table.schema):
        pass
    assert pq.read_metadata(folder / "x.parquet").num_row_groups == 0
    return Expected(good={"x": table})


@kind
def empty_row_groups_between(folder: Path) -> Expected:
    table = numbered(TEXTS)
    with pq.ParquetWriter(folder / "x.parquet", table.schema) as writer:
        for first, rows in ((0, 0), (0, 7), (7, 0), (7, 0), (7, 13), (20, 0)):
            writer.write_table(table.slice(first, rows))
    return Expected(good={"x": table}, settings={"slice_rows": 3})


@kind
def no_columns_but_the_text(folder: Path) -> Expected:
    return write(folder, pa.table({"text": TEXTS}))


@kind
def one_huge_row_group(folder: Path) -> Expected:
    expected = write(folder, numbered(random_texts(20, seed=4) * 1000), row_group_size=20_000)
    expected.settings = {"slice_rows": 1500}
    return expected


@kind
def ten_thousand_row_groups(folder: Path) -> Expected:
    expected = write(folder, numbered(random_texts(20, seed=4) * 500), row_group_size=1)
    assert pq.read_metadata(folder / "x.parquet").num_row_groups == 10_000
    expected.settings = {"slice_rows": 4000}
    return expected


# --- encodings


@kinds("codec", {name: name for name in ("snappy", "gzip", "brotli", "zstd", "lz4", "none")})
def codec(folder: Path, name: str) -> Expected:
    return write(folder, numbered(TEXTS), compression=name)


@kinds("data-page", {f"v{v[0]}": v for v in ("1.0", "2.0")})
def data_page(folder: Path, version: str) -> Expected:
    return write(folder, numbered(TEXTS), data_page_version=version, data_page_size=16)


@kinds("format", {name: name for name in ("1.0", "2.4", "2.6")})
def format_version(folder: Path, version: str) -> Expected:
    return write(folder, numbered(TEXTS, u=pa.array(range(20), pa.uint32())), version=version)


@kinds(
    "encoding",
    {
        "delta-byte-array": {"text": "DELTA_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED"},
        "delta-length": {"text": "DELTA_LENGTH_BYTE_ARRAY"},
        "split": {"id": "BYTE_STREAM_SPLIT", "f": "BYTE_STREAM_SPLIT"},
        "plain": {"text": "PLAIN", "id": "PLAIN"},
    },
)
def encoding(folder: Path, columns: dict[str, str]) -> Expected:
    table = numbered(TEXTS, f=[i / 7 for i in range(20)])
    return write(folder, table, use_dictionary=False, column_encoding=columns)


@kind
def dictionary_that_overflows(folder: Path) -> Expected:
    """The writer falls back to plain pages in the middle of the column."""
    return write(folder, numbered(random_texts(500)), dictionary_pagesize_limit=64)


# --- what is not Parquet


@kinds(
    "file",
    {
        "zero-bytes": b"",
        "text": b"id,text\n1,the red river\n" * 100,
        "magic-only": b"PAR1",
        "two-magics": b"PAR1PAR1",
        "magics-around-nothing": b"PAR1\0\0\0\0PAR1",
        "footer-longer-than-file": b"PAR1" + b"\xff\xff\xff\x7fPAR1",
        "footer-of-noise": b"PAR1" + b"\x15\x04" * 50 + b"\x64\0\0\0PAR1",
        "arrow": b"ARROW1\0\0" + b"\0" * 100,
        "gzip": b"\x1f\x8b\x08" + b"\0" * 100,
    },
)
def no_parquet(folder: Path, data: bytes) -> Expected:
    (folder / "x.parquet").write_bytes(data)
    return bad(folder, "cannot be read as Parquet: ")


def parquet_bytes(folder: Path, **options: Any) -> bytes:
    """A valid shard's bytes, to be spoiled."""
    write(folder, numbered(random_texts(300)), **options)
    return (folder / "x.parquet").read_bytes()


@kinds("truncated", {"half": 0.5, "last-byte": -1, "first-bytes": 12})
def truncated(folder: Path, length: float) -> Expected:
    data = parquet_bytes(folder)
    length = int(length * len(data)) if 0 < length < 1 else length
    (folder / "x.parquet").write_bytes(data[: int(length)])
    return bad(folder, "cannot be read as Parquet")


@kind
def truncated_at_the_start(folder: Path) -> Expected:
    data = parquet_bytes(folder)
    (folder / "x.parquet").write_bytes(data[100:])
    return bad(folder, "cannot be read")


def flipped(data: bytes, first: int, last: int, seed: int) -> bytes:
    """One bit of the bytes from `first` to `last` turned."""
    spoiled = bytearray(data)
    bit = int(np.random.default_rng(seed).integers(8 * first, 8 * last))
    spoiled[bit // 8] ^= 1 << bit % 8
    return bytes(spoiled)


@kinds("flipped-footer", {str(seed): seed for seed in range(12)})
def flipped_footer(folder: Path, seed: int) -> Expected:
    data = parquet_bytes(folder)
    table = pq.read_table(folder / "x.parquet")
    footer = 8 + int.from_bytes(data[-8:-4], "little")
    spoiled = flipped(data, len(data) - footer, len(data), seed)
    (folder / "x.parquet").write_bytes(spoiled)
    return Expected(either={"x.parquet": (".", table.select(["text"]))})


@kinds("footer-says", {"fewer-rows": 299, "more-rows": 301})
def footer_that_contradicts_itself(folder: Path, rows: int) -> Expected:
    """The file's number of rows is not the sum of its row groups'."""
    data = parquet_bytes(folder)

    def field(value: int) -> bytes:  # of Thrift: number 3, a varint, before the row groups
        return bytes([0x16, (2 * value) & 0x7F | 0x80, (2 * value) >> 7, 0x19])

    assert data.count(field(300)) == 1
    (folder / "x.parquet").write_bytes(data.replace(field(300), field(rows)))
    return bad(folder, f"its footer says {rows} rows, its row groups hold 300; write it again")


@kinds("flipped-page", {str(seed): seed for seed in range(6)})
def flipped_page(folder: Path, seed: int) -> Expected:
    """Nothing in the file can tell that a value has changed; the number of rows holds."""
    data = parquet_bytes(folder)
    table = pq.read_table(folder / "x.parquet")
    footer = 8 + int.from_bytes(data[-8:-4], "little")
    (folder / "x.parquet").write_bytes(flipped(data, 4, len(data) - footer, seed))
    return Expected(either={"x.parquet": (".", table.select(["text"]))})


@kinds("flipped-page-with-checksum", {str(seed): seed for seed in range(6)})
def flipped_page_with_checksum(folder: Path, seed: int) -> Expected:
    options = dict(use_dictionary=False, compression="none", write_page_checksum=True)
    data = parquet_bytes(folder, **options)
    text = pq.read_metadata(folder / "x.parquet").row_group(0).column(0)
    first = text.data_page_offset + 60  # behind the page's header
    last = text.data_page_offset + text.total_compressed_size
    (folder / "x.parquet").write_bytes(flipped(data, first, last, seed))
    return bad(folder, "(?i)could not verify page integrity|crc")


class Keys(pe.KmsClient):
    """Keys that only this process has, and that protect nothing."""

    def __init__(self, _: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> str:
        return key.hex()

    def unwrap_key(self, wrapped: str, _: str) -> bytes:
        return bytes.fromhex(wrapped)


@kinds("encrypted", {"footer": False, "columns": True})
def encrypted(folder: Path, plaintext_footer: bool) -> Expected:
    factory = pe.CryptoFactory(Keys)
    configuration = pe.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=plaintext_footer
    )
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), configuration)
    table = numbered(TEXTS)
    path = folder / "x.parquet"
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return bad(folder, "(?i)cannot be read as Parquet: .*(crypt|no decryption)")


# --- file systems


@kind
def folder_named_like_a_shard(folder: Path) -> Expected:
    expected = write(folder, numbered(TEXTS), "x.parquet/part")
    expected.good |= write(folder, numbered(TEXTS[:3]), "x.parquet/other.parquet/deep").good
    return expected


@kind
def empty_folder_named_like_a_shard(folder: Path) -> Expected:
    (folder / "x.parquet").mkdir()
    return Expected()


@kind
def folder_named_like_an_output(folder: Path) -> Expected:
    """`x`'s labelled rows would be a file where the other's need a folder."""
    expected = write(folder, numbered(TEXTS))
    write(folder, numbered(TEXTS), "x.000000000000.parquet/part")
    expected.bad = {"x.000000000000.parquet/part.parquet": "a folder of its path is called like"}
    return expected


@kind
def shard_named_like_an_output(folder: Path) -> Expected:
    expected = write(folder, numbered(TEXTS))
    expected.good |= write(folder, numbered(TEXTS[:7]), "x.000000000000").good
    expected.good |= write(folder, numbered(TEXTS[:5]), "x.000000000000.000000000000").good
    return expected


@kind
def fifo(folder: Path) -> Expected:
    os.mkfifo(folder / "x.parquet")
    return bad(folder, "is not a regular file")


@kind
def socket_file(folder: Path) -> Expected:
    os.mknod(folder / "x.parquet", stat.S_IFSOCK | 0o600)
    return bad(folder, "is not a regular file")


@kind
def dangling_link(folder: Path) -> Expected:
    (folder / "x.parquet").symlink_to(folder / "nowhere")
    return bad(folder, "a link to nothing")


@kind
def link_to_itself(folder: Path) -> Expected:
    (folder / "x.parquet").symlink_to("x.parquet")
    return bad(folder, "is not a regular file|link")


@kind
def link_to_a_fifo(folder: Path) -> Expected:
    os.mkfifo(folder / "pipe")
    (folder / "x.parquet").symlink_to("pipe")
    return bad(folder, "is not a regular file")


@kind
def link_to_a_file(folder: Path) -> Expected:
    expected = write(folder.parent / "store", numbered(TEXTS), "blob")
    (folder / "x.parquet").symlink_to(folder.parent / "store" / "blob.parquet")
    return Expected(good={"x": expected.good["blob"]})


@kind
def hard_links(folder: Path) -> Expected:
    expected = write(folder, numbered(TEXTS))
    os.link(folder / "x.parquet", folder / "y.parquet")
    expected.good["y"] = expected.good["x"]
    return expected


@kind
def loop_of_folders(folder: Path) -> Expected:
    expected = write(folder, numbered(TEXTS), "a/b/x")
    (folder / "a" / "b" / "loop").symlink_to(folder / "a")
    (folder / "a" / "loop.parquet").symlink_to(folder)
    return expected


@kind
def link_to_a_folder(folder: Path) -> Expected:
    expected = write(folder.parent / "elsewhere", numbered(TEXTS), "x")
    (folder / "dt=1").mkdir()
    (folder / "dt=1" / "day").symlink_to(folder.parent / "elsewhere")
    expected.good["dt=1/day/x"] = expected.good.pop("x")
    return expected


@kind
def hidden_files_and_neighbours(folder: Path) -> Expected:
    """Unlike some readers, this one takes every `*.parquet`; nothing else."""
    expected = write(folder, numbered(TEXTS), ".hidden")
    for name in ("_SUCCESS", "x.parquet.crc", "x.parquet.tmp", "x.PARQUET", "parquet"):
        (folder / name).write_bytes(b"no parquet")
    return expected


@kinds(
    "path",
    {
        "spaces": "dt=2026 11 24/a b",
        "percent": "dt=2026%2F11%2F24/a%20b%",
        "equals": "a=b=c/=d/e=",
        "unicode": "stra\xdfe=\u4e2d\u6587/\u202ex",
        "emoji": "mood=\U0001f44d/\U0001f468\u200d\U0001f469",
        "decomposed": "cafe\u0301/caf\xe9",
        "long-folder": "k=" + "v" * 250 + "/x",
        "long-name": "n" * 234,
        "long-unicode-name": "\u4e2d" * 78,
        "colon": "a:b/c:d",
        "at": "user:secret@host/x",
        "hash": "a#b/c#d",
        "question": "a?b/c?d",
        "query": "q?a=1/x?b=2",
        "ampersand": "a&b/c;d",
        "backslash": "a\\b/c\\..\\d",
        "newline": "a\nb/c\nd",
        "tab-and-escape": "a\tb/\x1b[31mc",
        "star": "a*b/*",
        "brackets": "[a]/x[0-9]",
        "braces": "{a,b}/{x}",
        "tilde": "~/~root",
        "dollar": "$HOME/${x}",
        "dash": "-rf/--output",
        "quotes": 'it\'s/"x"',
        "dots-in-names": "..a/b../...c",
        "leading-space": " a/ b ",
        "deep": "/".join("abcdefghij" * 6) + "/x",
        "digits": "0/000000000000",
        "windows": "con/nul",
        "windows-drive": "C:/x",
        "scheme": "s3:/bucket/x",
        "windows-1252": "\x80/\x9f",
    },
)
def path(folder: Path, name: str) -> Expected:
    return write(folder, numbered(TEXTS), name)


@kind
def queries_that_differ(folder: Path) -> Expected:
    """A local path has no query: the two must not become one bad shard."""
    write(folder, numbered(TEXTS), "x?v=1")
    expected = write(folder, numbered(TEXTS), "x?v=2")
    (folder / "x?v=1.parquet").write_bytes(b"")
    expected.bad = {"x?v=1.parquet": "cannot be read"}
    return expected


@kinds(
    "bad-path",
    {
        "two-colons": ("a::b", "a::b", "'::' or a NUL"),
        "two-colons-in-folder": ("a::b/x", "a::b/x", "'::' or a NUL"),
        "not-utf8": ("a\udcff", "a\\udcff", "not UTF-8"),
        "not-utf8-folder": ("a\udcff/x", "a\\udcff/x", "not UTF-8"),
        "too-long": ("n" * 240, "n" * 240, "name is too long: 240 bytes"),
        "nothing": ("a/", "a/", "empty part"),
    },
)
def bad_path(folder: Path, value: tuple[str, str, str]) -> Expected:
    name, shown, reason = value
    target = folder / "x.parquet"
    write(folder, numbered(TEXTS))
    place = f"{folder}/{name}.parquet"
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.rename(target, place)
    return bad(folder, reason, f"{shown}.parquet")


@pytest.mark.parametrize("name", KINDS)
def test_kind(name, tmp_path, job):
    (tmp_path / "in").mkdir()
    write_shard(tmp_path / "in" / "good.parquet", GOOD)
    expected = KINDS[name](tmp_path / "in")
    before = everything(tmp_path)
    summary = job(**expected.settings)
    check(expected, summary, tmp_path)
    assert everything(tmp_path) - everything(tmp_path / "out") - {str(tmp_path / "out")} == before
    written = everything(tmp_path / "out")
    again = job(**expected.settings)
    assert again["bad_shards"] == summary["bad_shards"]
    assert again["slices_labelled"] == 0
    assert again["exit_code"] == summary["exit_code"]
    tables = {path for path in written if path.endswith(".parquet") and "/table/" in path}
    assert {path for path in everything(tmp_path / "out") if path in tables} == tables


def check(expected: Expected, summary: dict[str, Any], root: Path) -> None:
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
        check_rows(rows_of(root / "out", name), table, expected)
    carry = expected.settings.get("carry") or ["id"]
    beside = pa.table({"text": GOOD, "id": range(len(GOOD))}).select(["text", *carry])
    check_rows(rows_of(root / "out", "good"), beside, Expected(settings=expected.settings))
    assert summary["exit_code"] == (3 if summary["bad_shards"] else 0)
    folders = {path.name for path in (root / "out").iterdir()}
    assert folders <= {"table", "ledger", "stats", "staging"}
    assert not list((root / "out").glob("staging/*"))
    assert not [path for path in (root / "out").rglob("*") if path.is_symlink()]


def slices_of(summary: dict[str, Any]) -> tuple[int, int]:
    """Slices labelled, and up to date."""
    return summary["slices_labelled"], summary["slices_up_to_date"]


CHANGES: dict[str, Callable[[Path], object]] = {
    "shrunk": lambda path: pq.write_table(numbered(TEXTS[:3]), path),
    "grown": lambda path: pq.write_table(numbered(TEXTS * 2), path),
    "replaced": lambda path: pq.write_table(numbered(TEXTS[::-1]), path),
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, 200),
    "removed": lambda path: path.unlink(),
    "other-columns": lambda path: pq.write_table(pa.table({"body": TEXTS}), path),
    "other-types": lambda path: pq.write_table(numbered(range(20)), path),
    "a-folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_between_plan_and_read(change, tmp_path, job):
    """What this run makes of it, the next one puts right."""
    folder = tmp_path / "in"
    write_shard(folder / "good.parquet", GOOD)
    write(folder, numbered(TEXTS))
    path = folder / "x.parquet"
    summary = job(meanwhile=lambda: CHANGES[change](path), slice_rows=5)
    assert rows_of(tmp_path / "out", "good").num_rows == len(GOOD)
    for url, reason in summary["bad_shards"].items():
        assert bad_file(url, tmp_path) == "x.parquet"
        assert re.search("cannot be read|changed while it was read|has no column|of type", reason)
    second = job(slice_rows=5, prune=True)
    third = job(slice_rows=5, prune=True)
    assert slices_of(third)[0] == 0
    assert third["bad_shards"] == second["bad_shards"]
    if path.is_file() and not third["bad_shards"]:
        check_rows(rows_of(tmp_path / "out", "x"), pq.read_table(path), Expected())
    elif not path.is_file():
        assert not list((tmp_path / "out" / "table").glob("x.*"))


def test_a_shard_that_must_not_be_read(tmp_path, job, monkeypatch):
    """The tests may run as root, who may read all."""
    write_shard(tmp_path / "in" / "good.parquet", GOOD)
    write_shard(tmp_path / "in" / "x.parquet", TEXTS)

    def denied(path, *arguments, **named):
        if str(path).endswith("x.parquet"):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *arguments, **named)

    monkeypatch.setattr("fsspec.implementations.local.open", denied, raising=False)
    for _ in range(2):
        ((url, reason),) = job()["bad_shards"].items()
        assert bad_file(url, tmp_path) == "x.parquet"
        assert re.search("cannot be read as Parquet: .*Permission denied", reason)
    assert rows_of(tmp_path / "out", "good").num_rows == len(GOOD)


def test_a_folder_that_must_not_be_listed(tmp_path, job, monkeypatch):
    """Its shards are not gone: with --prune their labels would be removed."""
    write_shard(tmp_path / "in" / "good.parquet", GOOD)
    write_shard(tmp_path / "in" / "secret" / "x.parquet", TEXTS)
    job()
    before = everything(tmp_path / "out")
    real = os.scandir

    def denied(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"cannot list .*secret': Permission denied; expected"):
        job(prune=True)
    monkeypatch.undo()
    assert everything(tmp_path / "out") == before


def test_the_same_folder_twice_is_labelled_once(tmp_path, job):
    write_shard(tmp_path / "in" / "good.parquet", GOOD)
    assert job(inputs=("in", "in/", "./in", "in/*.parquet"))["rows"] == len(GOOD)
    assert job()["slices_up_to_date"] == 1


def test_the_same_file_by_two_names_is_refused(tmp_path, job):
    write_shard(tmp_path / "in" / "dt=1" / "x.parquet", GOOD)
    with pytest.raises(InputError, match=r"in --input twice.*pass it once"):
        job(inputs=("in", "in/dt=1/x.parquet"))
    assert not (tmp_path / "out" / "table").exists()


def test_a_fifo_as_input_is_refused(tmp_path, job):
    os.mkfifo(tmp_path / "in")
    with pytest.raises(InputError, match="no Parquet file at"):
        job()


HOSTILE_KEYS = ["a/../../b", "a//b", "a/./b", "../b", "a::b", "a\0b", "a/..", "."]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_keys_of_object_stores(key, monkeypatch):
    """Names that no disk has; they must not lead out of the output, or meet in one file."""
    memory = fsspec.filesystem("memory")
    sink = pa.BufferOutputStream()
    pq.write_table(numbered(GOOD), sink)
    data = sink.getvalue().to_pybytes()
    memory.pipe_file("/corpus/good.parquet", data)
    names = ["/corpus/good.parquet", f"/corpus/{key}.parquet"]
    info = {"size": len(data), "type": "file", "created": 1}
    listing = {name: info | {"name": name} for name in names}
    monkeypatch.setattr(type(memory), "find", lambda *_, **__: listing)
    try:
        shards = find_shards(["memory://corpus"])
        plan = make_plan(shards, Committed([], {}), {}, InputColumns(), 1000, False)
    finally:
        memory.rm_file("/corpus/good.parquet")
    assert [piece.path for piece in plan.todo] == ["table/good.000000000000.parquet"]
    ((_, reason),) = plan.bad_shards.items()
    assert "rename it" in reason


MEMORY = """
import sys, threading, psutil, time
from pipelines.input.slices import Slice
from pipelines.labelling.read import ReadTokenize
from pipelines.input.columns import InputColumns
from pipelines.input.shards import find_shards
from pipelines.labelling.work import Work

def watch():
    while True:
        peak[0] = max(peak[0], process.memory_info().rss)
        time.sleep(0.005)

checkpoint, folder = sys.argv[1:]
read = ReadTokenize(checkpoint, 32, InputColumns())
process = psutil.Process()
base = process.memory_info().rss
peak = [base]
threading.Thread(target=watch, daemon=True).start()
for shard in find_shards([folder]):
    rows = int(shard.name.split("-")[0])
    for first in range(0, rows, 1000):
        work = read(Work(Slice(shard, rows, first, min(1000, rows - first))))
        assert work.table.num_rows == min(1000, rows - first), work.failure
    print(shard.name, (peak[0] - base) >> 20)
"""


def test_memory_is_bounded(tmp_path, checkpoint):
    """By 64 MB of text at a time, not by slice, row group or shard."""
    folder = tmp_path / "in"
    folder.mkdir()
    text = "the red river " * 75_000  # 1 MB
    table = pa.table({"text": [f"{i} {text}" for i in range(60)]})
    plain = dict(compression="zstd", use_dictionary=False)
    with pq.ParquetWriter(folder / "240-long.parquet", table.schema, **plain) as writer:
        for _ in range(4):
            writer.write_table(table)
    bomb = pa.array([text] * 300)  # 300 MB, in the file once
    pq.write_table(pa.table({"text": bomb}), folder / "300-bomb.parquet", compression="zstd")
    assert (folder / "300-bomb.parquet").stat().st_size < 1 << 20
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 700), [text])
    pq.write_table(pa.table({"text": bomb}), folder / "700-dictionary.parquet")
    # What is fetched must not stay, either: this does not compress.
    noise = np.random.default_rng(0).integers(97, 123, (4, 50, 1_000_000), np.uint8)
    plain["compression"] = "none"
    with pq.ParquetWriter(folder / "200-noise.parquet", table.schema, **plain) as writer:
        for part in noise:
            writer.write_table(pa.table({"text": [row.tobytes().decode() for row in part]}))
    script = [sys.executable, "-c", MEMORY, checkpoint, str(folder)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    growth = {name: int(mb) for name, mb in (line.split() for line in done.stdout.splitlines())}
    assert len(growth) == 4
    assert max(growth.values()) < 700, growth


@pytest.mark.integration
def test_a_hundred_thousand_shards_are_planned_quickly(tmp_path, request):
    """As many with `--fuzz-minutes`; a fifth of them as a rule, for time."""
    count = 100_000 if request.config.getoption("--fuzz-minutes") else 20_000
    one = [tmp_path / f"{k}.tmp" for k in range(4)]  # a file has so many links at most
    for path in one:
        pq.write_table(numbered(GOOD), path)
    for k in range(count):
        if k % 1000 == 0:
            folder = tmp_path / "in" / f"dt={k // 1000}"
            folder.mkdir(parents=True)
        os.link(one[k % 4], folder / f"part-{k:06d}.parquet")
    process = psutil.Process()
    before, started = process.memory_info().rss, process_time()
    shards = find_shards([str(tmp_path / "in")])
    plan = make_plan(shards, Committed([], {}), {}, InputColumns(), 1000, False)
    assert len(plan.todo) == count
    assert process_time() - started < 200  # seconds of CPU; quadratic would be hours
    assert process.memory_info().rss - before < 500 << 20
