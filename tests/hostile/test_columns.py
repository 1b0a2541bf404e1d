"""Columns: missing, twice, with odd names and schemas."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hostile.harness import TEXTS, Expected, Kinds, bad, check_kind, numbered, parquet_bytes, write
from pipelines.output.schema import output_schema

KINDS = Kinds()


@KINDS.add
def text_missing(folder: Path) -> Expected:
    pq.write_table(pa.table({"body": TEXTS, "Text": TEXTS}), folder / "x.parquet")
    return bad(folder, "has no column 'text'; its columns are body, Text")


@KINDS.add
def text_twice(folder: Path) -> Expected:
    table = pa.table([TEXTS, TEXTS], names=["text", "text"])
    pq.write_table(table, folder / "x.parquet")
    return bad(folder, "has more than one column 'text'")


@KINDS.add
def carried_column_twice(folder: Path) -> Expected:
    table = pa.table([TEXTS, range(20), range(20)], names=["text", "id", "id"])
    pq.write_table(table, folder / "x.parquet")
    return bad(folder, "columns with equal names, or with a NUL in them: id, id")


@KINDS.add
def twice_but_not_carried(folder: Path) -> Expected:
    table = pa.table([TEXTS, range(20), range(20), range(20)], names=["text", "a", "a", "id"])
    pq.write_table(table, folder / "x.parquet")
    columns = {"text": TEXTS, "id": range(20)}
    return Expected(good={"x": pa.table(columns)}, settings={"carry": ("id",)})


@KINDS.add
def carried_like_ours(folder: Path) -> Expected:
    ours = {name: [f"{name} {i}" for i in range(20)] for name in output_schema().names}
    return write(folder, numbered(TEXTS, **ours))


@KINDS.add
def carried_like_ours_and_its_new_name(folder: Path) -> Expected:
    write(folder, numbered(TEXTS, label=TEXTS, input_label=TEXTS))
    reason = "two carried columns would have the name 'input_label'; choose with --carry"
    return Expected(bad={"x.parquet": reason}, of_one_label=True)


@KINDS.add
def carried_name_with_nul(folder: Path) -> Expected:
    pq.write_table(numbered(TEXTS, **{"\0ids": TEXTS}), folder / "x.parquet")
    return bad(folder, "equal names|NUL")


@KINDS.each(
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


@KINDS.add
def dotted_name_beside_a_struct(folder: Path) -> Expected:
    """`iter_batches` takes `a.b` for the struct's field too."""
    struct = pa.array([{"b": i, "c": i} for i in range(20)])
    return write(folder, numbered(TEXTS, **{"a": struct, "a.b": TEXTS}))


@KINDS.add
def text_is_prefix_of_another_column(folder: Path) -> Expected:
    return write(folder, numbered(TEXTS, **{"text.more": TEXTS, "text2": TEXTS}))


@KINDS.add
def pandas_index(folder: Path) -> Expected:
    table = numbered(TEXTS, __index_level_0__=range(20))
    return write(folder, table.replace_schema_metadata({"pandas": '{"index_columns": [1'}))


@KINDS.add
def nonsense_metadata(folder: Path) -> Expected:
    metadata = {b"\xff": b"\0" * 1000, b"fastbert.source": b"mine", b"": b""}
    return write(folder, numbered(TEXTS).replace_schema_metadata(metadata))


@KINDS.add
def broken_arrow_schema(folder: Path) -> Expected:
    data = parquet_bytes(folder)
    assert b"/////" in data  # how Arrow's schema begins, in base64
    (folder / "x.parquet").write_bytes(data.replace(b"/////", b"!!!!!"))
    return bad(folder, "cannot be read as Parquet")


@KINDS.add
def column_name_not_utf8(folder: Path) -> Expected:
    write(folder, numbered(TEXTS, abcdefg=TEXTS), store_schema=False)
    data = (folder / "x.parquet").read_bytes()
    (folder / "x.parquet").write_bytes(data.replace(b"abcdefg", b"abc\xff\xfefg"))
    return bad(folder, "cannot be read as Parquet: .*utf-8")


@KINDS.add
def required_columns(folder: Path) -> Expected:
    schema = pa.schema([pa.field("text", pa.string(), False), pa.field("id", pa.int64(), False)])
    return write(folder, numbered(TEXTS).cast(schema))


@KINDS.add
def very_wide(folder: Path) -> Expected:
    return write(folder, numbered(TEXTS, **{f"c{i}": range(20) for i in range(2000)}))


@KINDS.add
def different_schemas(folder: Path) -> Expected:
    expected = Expected()
    for name, extra in (("a", [1] * 20), ("b", ["x"] * 20), ("c", [[1.5]] * 20)):
        expected.good |= write(folder, numbered(TEXTS, extra=extra), name).good
    expected.good |= write(folder, pa.table({"text": TEXTS}), "d").good
    return expected


@pytest.mark.parametrize("name", KINDS)
def test_kind(name, tmp_path, job):
    check_kind(KINDS[name], tmp_path, job)
