"""Every format gives the same rows, in slices of any size, and a line's row is its own."""

import gzip
import json
import random
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from support.formats import ENCODED, json_lines

from pipelines.input.columns import InputColumns
from pipelines.input.formats import delimited, text
from pipelines.input.formats.fields import MIXED, fitted, merged
from pipelines.input.formats.format import BROKEN, Scan
from pipelines.input.scans import Scans
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice, SliceReader, streams
from pipelines.input.unreadable import ShardError
from pipelines.output.storage import Storage

ROWS = 97
ODD = [
    "a\nb",
    'say "so", twice',
    "caf\u00e9 \U0001f44d",
    "semi;colon\ttab",
    "",
    "x" * 300,
    "{",
    "'",
]
TABLE = pa.table(
    {
        "id": [f"{k:05}" for k in range(ROWS)],
        "text": [f"{ODD[k % len(ODD)]} {k}" if k % 9 else f"row {k}" for k in range(ROWS)],
        "stars": [k / 4 for k in range(ROWS)],
        "n": pa.array([k * 1000 for k in range(ROWS)], pa.int64()),
    }
)


@pytest.fixture(autouse=True, params=[40, 1 << 20], ids=["tiny blocks", "one block"])
def _blocks(request, monkeypatch):
    for module in (text, delimited):
        monkeypatch.setattr(module, "BLOCK_BYTES", request.param)


def found(folder: Path, columns: InputColumns) -> tuple[list[Shard], list[Scan], InputColumns]:
    shards, scans = find_shards([str(folder)]), Scans()
    some = [scans.of(shard, columns) for shard in shards]
    return list(shards), some, replace(columns, fields=scans.fields())


def rows_of(reader: SliceReader, piece: Slice) -> pa.Table:
    return pa.concat_tables(reader.read(piece))


@pytest.mark.parametrize("name", ENCODED)
def test_all_formats_give_the_same_rows_in_slices_of_any_size(tmp_path, name):
    (tmp_path / name).write_bytes(ENCODED[name](TABLE))
    (shard,), (scan,), columns = found(tmp_path, InputColumns())
    assert scan.rows == ROWS
    assert set(scan.schema.names) == {*TABLE.column_names}
    generator = random.Random(name)
    for size in (1, 5, 13, ROWS):
        firsts = list(range(0, ROWS, size))
        pieces = [
            Slice(shard, ROWS, first, min(size, ROWS - first), scan.start(first))
            for first in generator.sample(firsts, min(len(firsts), 12))
        ]
        with closing(SliceReader(columns)) as reader:
            for piece in pieces:
                table = rows_of(reader, piece)
                expected = TABLE.slice(piece.first_row, piece.rows).select(
                    columns.read(TABLE.schema)
                )
                if BROKEN.name in table.column_names:
                    assert table[BROKEN.name].null_count == piece.rows
                    table = table.drop_columns(BROKEN.name)
                assert table.equals(expected)


LINES = [
    (b'{"text": "good", "n": 1}', None),
    (b'{"text": "broken", "n": ', "line is not JSON: Expecting value"),
    (b'{"text": "two"} {"text": "objects"}', "line is not JSON: Extra data"),
    (b'{"text": "two"}{"text": "objects"}', "line is not JSON: Extra data"),
    (b'{"text": "an array", "n": [1', "line is not JSON"),
    (b"[1, 2]", r"line is JSON, expected an object: \[1, 2\]"),
    (b"null", "line is JSON, expected an object: null"),
    (b"}", "line is not JSON"),
    (b'{"text": "\xff"}', "line is not UTF-8: invalid start byte at byte 10"),
    (b'{"text": "\\ud800"}', "field 'text' .*surrogates not allowed"),
    (b'{"\\ud800": 1, "text": "key"}', "line has a name that is not UTF-8"),
    (b'{"text": 3}', "field 'text' is 3, expected a string"),
    (b'{"text": ["a"]}', r"field 'text' is \[\"a\"\], expected a string"),
    (b'{"text": "no\x01control"}', "line is not JSON: Invalid control character"),
    (b'{"text": "twice", "text": "the last counts"}', None),
    (b'  {"text": "blanks around"}  ', None),
    (b'{"text": "carriage"}\r', None),
    (b'{"text": null}', None),
    (b"{}", None),
    (b'{"text": "deep", "x": ' + b"[" * 100 + b"]" * 100 + b"}", None),
    (b'{"text": "deep", "x": ' + b"[" * 3000 + b"]" * 3000 + b"}", "too many nested objects"),
    (b'{"text": "deep", "x": ' + b"[" * 99999 + b"]" * 99999 + b"}", "too many nested objects"),
    (b'{"text": "NaN", "n": NaN}', None),
    (b'{"text": "big", "n": 123456789012345678901234567890}', None),
    ('{"text": "caf\u00e9 \U0001f44d"}'.encode(), None),
]  # fmt: skip


def test_a_lines_row_does_not_depend_on_others(tmp_path):
    """Alone, among good ones, and among all, it has the same values or the same error."""
    whole = [line for line, _ in LINES]
    (tmp_path / "all.jsonl").write_bytes(b"\n".join(whole))
    shards, (scan,), columns = found(tmp_path, InputColumns())
    assert scan.rows == len(LINES)
    with closing(SliceReader(columns)) as reader:
        together = rows_of(reader, Slice(shards[0], scan.rows, 0, scan.rows)).to_pylist()
    for number, (line, error) in enumerate(LINES):
        if error is None:
            assert together[number][BROKEN.name] is None
        else:
            assert re.search(error, together[number][BROKEN.name]), together[number]
            assert together[number]["text"] is None
        alone = tmp_path / "alone" / "one.jsonl"
        alone.parent.mkdir(exist_ok=True)
        alone.write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
        (shard,) = find_shards([str(alone.parent)])
        with closing(SliceReader(columns)) as reader:
            rows = rows_of(reader, Slice(shard, 3, 0, 3)).to_pylist()
        assert [rows[0]["text"], rows[2]["text"]] == ["before", "after"]
        assert repr(rows[1]) == repr(together[number])  # NaN is not NaN


def test_values_of_several_kinds_become_text(tmp_path):
    values = [1, "two", [3], {"four": 5}, None, True, 6.5, {}]
    table = "".join(json.dumps({"text": "a", "x": value}) + "\n" for value in values)
    (tmp_path / "x.jsonl").write_text(table)
    (shard,), (scan,), columns = found(tmp_path, InputColumns())
    with closing(SliceReader(columns)) as reader:
        rows = rows_of(reader, Slice(shard, scan.rows, 0, scan.rows))
    assert rows["x"].to_pylist() == ["1", "two", "[3]", '{"four": 5}', None, "true", "6.5", "{}"]
    assert rows[BROKEN.name].null_count == len(values)


def test_types_are_such_that_all_values_have_a_place():
    integer, real = pa.int64(), pa.float64()

    def kind(*types: pa.DataType) -> pa.Field:
        return merged(pa.schema([("x", each)]) for each in types).field("x")

    assert kind(pa.null(), integer).type == integer
    assert kind(integer, real, pa.null()).type == real
    assert kind(pa.list_(integer), pa.list_(real)).type == pa.list_(real)
    one, other = pa.struct([("a", integer)]), pa.struct([("b", pa.string()), ("a", pa.null())])
    assert kind(one, other).type == pa.struct([("a", integer), ("b", pa.string())])
    for types in ((integer, pa.string()), (pa.bool_(), integer), (one, integer), (pa.struct([]),)):
        assert kind(*types).equals(pa.field("x", pa.string()), check_metadata=False)
        assert kind(*types).metadata == MIXED
    many = pa.struct([(str(k), integer) for k in range(300)])
    assert kind(many).type == pa.string()


@pytest.mark.parametrize("value", [1.5, 2**63, float("nan"), "1", True, [1]])
def test_what_is_no_integer_has_no_place_in_them(value):
    with pytest.raises(ValueError, match="expected|NaN"):
        fitted(value, pa.int64())
    assert fitted(1.0, pa.int64()) == 1


CELLS = [
    ("id,text\n1,a\n2\n3,b,c\n\n4,d\n", ["a", None, None, "d"], {1: "1 cells", 2: "3 cells"}),
    ('id,text\n1,"a\n2,b\n3,c\n', [None, "b", "c"], {0: "a quote is not closed"}),
    ('id,text\n1,5" disk\n2,"b""c"\n', ['5" disk', 'b"c'], {}),
    ('id,text\r\n1,"a\r\nb"\r\n2,c', ["a\r\nb", "c"], {}),
    ("\ufeffid;text\n1;a,b\n", ["a,b"], {}),
    ("id,text\n1,\n", [""], {}),
    ("text\na\n\nb\n", ["a", "b"], {}),
]


@pytest.mark.parametrize(("data", "texts", "errors"), CELLS)
def test_rows_of_csv(tmp_path, data, texts, errors):
    (tmp_path / "x.csv").write_bytes(data.encode())
    (shard,), (scan,), columns = found(tmp_path, InputColumns())
    with closing(SliceReader(columns)) as reader:
        for rows in (
            rows_of(reader, Slice(shard, scan.rows, 0, scan.rows)),
            pa.concat_tables(
                rows_of(reader, Slice(shard, scan.rows, row, 1, scan.start(row)))
                for row in range(scan.rows)
            ),
        ):
            assert rows["text"].to_pylist() == texts
            wrong = rows[BROKEN.name].to_pylist()
            assert {k for k, error in enumerate(wrong) if error} == {*errors}
            assert all(said in wrong[k] for k, said in errors.items())


def test_a_quote_that_never_ends_costs_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_LONGEST_CELL", 1000)
    good = "".join(f"{k},row {k}\n" for k in range(400))
    (tmp_path / "x.csv").write_text(f'id,text\n{good}x,"never\n{good}')
    (shard,), (scan,), columns = found(tmp_path, InputColumns())
    assert scan.rows == 801
    with closing(SliceReader(columns)) as reader:
        rows = rows_of(reader, Slice(shard, 801, 0, 801))
    assert [k for k, error in enumerate(rows[BROKEN.name].to_pylist()) if error] == [400]
    assert rows["text"][401].as_py() == "row 0"


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2", "0"], pa.int64()),
        (["1", "", "3"], pa.int64()),
        (["007", "1"], pa.string()),
        (["+1"], pa.string()),
        (["1.50", "2"], pa.float64()),
        (["1e-05", "2.5"], pa.float64()),
        (["12e4"], pa.string()),
        (["true", "False"], pa.bool_()),
        (["1", "n/a"], pa.string()),
        (["12345678901234567890"], pa.string()),
        (["2020-01-01"], pa.string()),
        (["", ""], pa.string()),
    ],
)
def test_cells_are_numbers_where_nothing_is_lost(tmp_path, cells, kind):
    (tmp_path / "x.csv").write_text("".join(["text,x\n", *(f"t,{cell}\n" for cell in cells)]))
    (shard,), (scan,), columns = found(tmp_path, InputColumns())
    assert scan.schema.field("x").type == kind
    with closing(SliceReader(columns)) as reader:
        values = rows_of(reader, Slice(shard, scan.rows, 0, scan.rows))["x"].to_pylist()
    none = "" if kind == pa.string() else None
    assert [value == none for value in values] == [cell == "" for cell in cells]


REFUSED = {
    "array.json": (b'[{"text": "a"}]', "is one JSON array"),
    "pretty.json": (b'{\n "text": "a"\n}\n', "objects over several lines"),
    "utf-16.jsonl": ('{"text": "a"}\n'.encode("utf-16"), "is UTF-16, expected UTF-8"),
    "utf-16.csv": ("text\na\n".encode("utf-16"), "is UTF-16, expected UTF-8"),
    "none.jsonl": (b"hello\nworld\n", "has no object in any line; the first line is not JSON"),
    "other.jsonl": (b'{"body": "a"}\n', "has no column 'text'; its columns are body"),
    "numbers.jsonl": (b'{"text": 1}\n', "column 'text' is of type int64, expected string"),
    "other.csv": (b"body\na\n", "has no column 'text'; its columns are body"),
    "twice.csv": (b"text,text\na,b\n", "has more than one column 'text'"),
    "cut.jsonl.gz": (gzip.compress(json_lines(TABLE))[:-20], "gzip data is truncated or corrupt"),
    "plain.jsonl.gz": (json_lines(TABLE), "cannot be read as JSON Lines"),
    "plain.jsonl.zst": (json_lines(TABLE), "cannot be read as JSON Lines"),
    "text.arrow": (b"hello", "cannot be read as Arrow"),
    "cut.arrow": (ENCODED["x.arrow"](TABLE)[:-30], "cannot be read as Arrow"),
    "old.feather": (b"FEA1" + b"\0" * 20, "is of Feather's version 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused_as_a_whole(tmp_path, name):
    data, reason = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ShardError, match=reason):
        found(tmp_path, InputColumns())


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.jsonl.gz"])
def test_files_without_a_line_have_no_rows(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    (shard,), (scan,), columns = found(tmp_path, InputColumns())
    assert scan.rows == 0
    with closing(SliceReader(columns)) as reader:
        assert rows_of(reader, Slice(shard, 0, 0, 0)).num_rows == 0


@pytest.mark.parametrize("name", ENCODED)
def test_files_that_change_between_plan_and_read(tmp_path, name):
    path = tmp_path / name
    for meanwhile in (lambda: path.write_bytes(ENCODED[name](TABLE.slice(0, 9))), path.unlink):
        path.write_bytes(ENCODED[name](TABLE))
        (shard,), (scan,), columns = found(tmp_path, InputColumns())
        meanwhile()
        piece = Slice(shard, ROWS, 50, 47, scan.start(50))
        with closing(SliceReader(columns)) as reader, pytest.raises((ShardError, OSError)):
            list(reader.read(piece))


def test_what_an_output_keeps_is_not_read_again(tmp_path, monkeypatch):
    for name in ("x.jsonl", "x.json.gz", "x.parquet"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(ENCODED[name](TABLE))
    storage, columns = Storage(str(tmp_path / "out")), InputColumns()
    shards = find_shards([str(tmp_path / "in")])
    first = Scans(storage, keep=True)
    scans = [*first.each(shards, columns)]
    first.settle(first.fields())
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.input.scans.scan", lambda shard, _: shard.name)
        again = [*Scans(storage).each(shards, columns)]
    assert again == ["x", *scans[1:]]  # a footer is read at every time
    lacking = [*Scans(storage).each(shards, InputColumns(carry=("none",)))]
    assert all("has no column 'none'" in said for said in lacking)  # of kept ones, too
    changed = [replace(shard, version="another") for shard in shards]
    monkeypatch.setattr("pipelines.input.scans.scan", lambda shard, _: replace(scans[1], rows=1))
    assert [scan.rows for scan in Scans(storage).each(changed, columns)] == [1, 1, 1]
    first.clear()
    assert not [*Storage(str(tmp_path / "out")).paths("ledger/scans", ".arrow")]


def test_types_of_earlier_nights_stay(tmp_path):
    storage = Storage(str(tmp_path / "out"))
    (tmp_path / "x.csv").write_text("text,zip\na,007\n")
    shards = find_shards([str(tmp_path / "x.csv")])
    first = Scans(storage, keep=True)
    assert [scan.rows for scan in first.each(shards, InputColumns())] == [1]
    first.settle(first.fields())
    (tmp_path / "y.csv").write_text("text,zip\na,70\n")
    second = Scans(storage, keep=True)
    second.of(*find_shards([str(tmp_path / "y.csv")]), InputColumns())
    assert second.fields().field("zip").type == pa.string()


def test_a_compressed_file_is_one_readers(tmp_path):
    for name in ("x.jsonl", "x.json.gz", "x.parquet"):
        (tmp_path / name).write_bytes(ENCODED[name](TABLE))
    shards, scans, _ = found(tmp_path, InputColumns())
    pieces = [
        Slice(shard, ROWS, first, 10, scan.start(first))
        for shard, scan in zip(shards, scans, strict=True)
        for first in range(0, 90, 10)
    ]
    together = streams(pieces)
    assert [piece for stream in together for piece in stream] == pieces
    sizes = {stream[0].shard.name: len(stream) for stream in together}
    assert sizes["x.json.gz"] == 9
    assert sizes["x"] == 1
    assert sizes["x.jsonl"] == (9 if text.BLOCK_BYTES > 1000 else 1)
