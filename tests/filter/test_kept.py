"""What is kept: the merge of input and answers by file and row."""

import gzip
import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.jobs import invoke, refused
from support.labelling import settings
from support.stages import InProcess

from filter.corpus import FILES, WHERE, answers, expected, files, keep, stem, without_nulls
from pipelines.filter.kept import LIST
from pipelines.input.formats import text
from pipelines.labelling.job import label

#: The columns of all files of formats that say no types.
ALL = ("text", "id", "Score", "name", "x", "z", "only here")


@pytest.fixture(autouse=True, params=[4, 4096], ids=["small batches", "one batch"])
def _batches(request, monkeypatch):
    monkeypatch.setattr("pipelines.input.batches.BATCH_ROWS", request.param)
    monkeypatch.setattr("pipelines.input.formats.delimited.BATCH_ROWS", request.param)
    monkeypatch.setattr("pipelines.input.formats.parquet.BATCH_ROWS", request.param)


@pytest.mark.parametrize("where", WHERE)
def test_kept_parquet_is_the_merge_of_input_and_answers(world, where):
    summary = keep(world, where)
    truth = expected(world, where)
    assert summary["kept_rows"] == sum(map(len, truth.values()))
    assert summary["files"] == len(truth)
    assert summary["exit_code"] == 0
    found = files(world / "kept")
    del found[LIST]
    assert {stem(name) for name in found} == {stem(name) for name in truth}
    for name, rows in truth.items():
        table = pq.read_table(io.BytesIO(found[f"{stem(name)}.parquet"]))
        if ".jsonl" in name:  # fields become columns; a broken line has none
            assert len(table) == len(rows)
            whole = [b'"id"' in row and b"ud800" not in row for row in rows]
            ids = [
                json.loads(row)["id"] if ok else None for ok, row in zip(whole, rows, strict=True)
            ]
            assert table["id"].to_pylist() == ids
            assert {*table.column_names} == {*ALL}
        elif name.endswith(".csv"):
            assert {*table.column_names} == {*ALL}
            assert [*map(without_nulls, table.to_pylist())] == rows
        else:
            assert table.to_pylist() == rows
            assert table.column_names == ["text", "id", "Score", "name"]


@pytest.mark.parametrize(
    ("where", "format"),
    [
        *((where, "jsonl") for where in WHERE),
        ("true", "jsonl.gz"),
        ("dt is null and id % 3 = 0", "jsonl.zst"),
    ],
)
def test_kept_json_lines_are_the_lines_of_the_input(world, where, format):
    keep(world, where, format=format)
    truth = expected(world, where)
    for name, rows in truth.items():
        data = (world / "kept" / f"{stem(name)}.{format}").read_bytes()
        if format == "jsonl.gz":
            data = gzip.decompress(data)
        elif format == "jsonl.zst":
            data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
        lines = data.split(b"\n")
        assert lines.pop() == b""
        if ".jsonl" in name:
            assert [line.rstrip() for line in lines] == [row.rstrip() for row in rows]
        else:
            found = [*map(json.loads, lines)]
            assert (found if ".csv" not in name else [*map(without_nulls, found)]) == rows
    assert len(files(world / "kept")) == len(truth) + 1


@pytest.mark.parametrize("size", [40, 1 << 20])
def test_added_columns(world, size, monkeypatch):
    """Of JSON Lines they stand at the end of each object, which is otherwise what it was."""
    monkeypatch.setattr(text, "BLOCK_BYTES", size)
    where = "score > 0.25 and exit_layer >= 2"
    truth, labels = expected(world, where), answers(world).set_index(["file", "row"])
    chosen = labels[WHERE[where](labels.reset_index()).to_numpy()].sort_index()
    for format in ("parquet", "jsonl"):
        keep(world, where, format=format, carry=("exit_layer", "label"))
        for name, rows in truth.items():
            path = world / "kept" / f"{stem(name)}.{format}"
            if format == "parquet":
                found = pq.read_table(path, partitioning=None).to_pylist()
            else:
                found = [*map(json.loads, path.read_text().splitlines())]
            theirs = chosen.loc[name]
            assert [row["label"] for row in found] == list(theirs["label"])
            assert [row["exit_layer"] for row in found] == list(theirs["exit_layer"])
            if format == "jsonl" and ".jsonl" in name:
                for row, line in zip(found, rows, strict=True):
                    assert row == json.loads(line) | {k: row[k] for k in ("exit_layer", "label")}


def test_lines_that_are_no_objects_stay_as_they_are(world):
    keep(world, "error is not null", format="jsonl", carry=("error",))
    lines = (world / "kept" / "d.jsonl").read_bytes().split(b"\n")
    assert b'{"text": "broken' in lines
    assert b'{"error":"text is null"}' in lines  # of {}


def test_counts_by_source(world):
    summary = keep(world, "label <> 'ape'")
    truth = {name: len(rows) for name, rows in expected(world, "label <> 'ape'").items()}
    sums: dict[str, list[int]] = {}
    for name, rows in FILES.items():
        source = name.partition("/")[0] if "/" in name else "in"
        before = sums.setdefault(source, [0, 0])
        sums[source] = [before[0] + rows, before[1] + truth.get(name, 0)]
    assert {s["source"]: [s["rows"], s["kept"]] for s in summary["sources"]} == sums
    assert [s["rows"] for s in summary["sources"]] == [60, 31, 29, 0]
    assert summary["rows"] == sum(FILES.values())
    assert summary["percent"] == round(100 * sum(truth.values()) / sum(FILES.values()), 2)


def test_the_command(world):
    common = ("--input", world / "in", "--output", world / "out", "--kept", world / "kept")
    result = invoke("filter", *common, "--where", "label <> 'ape'")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert "kept rows" in result.stderr
    assert f"{summary['kept_rows']:,} of 120 rows are kept" in result.stderr
    assert "dt=1" in result.stderr
    refused(invoke("filter", *common, "--where", "label <>"), "--where fails: Parser Error")


def test_types_that_json_does_not_have(tmp_path, checkpoint):
    odd = {
        "text": ["the red river"],
        "ns": pa.array([1_234_567_891], pa.timestamp("ns")),
        "took": pa.array([5], pa.duration("ns")),
        "raw": [b"\xff"],
        "nan": [float("nan")],
        "big": pa.array([2**64 - 1], pa.uint64()),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
    }
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table(odd), tmp_path / "in" / "a.parquet")
    label(settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5), InProcess())
    keep(tmp_path, format="jsonl")
    (row,) = map(json.loads, (tmp_path / "kept" / "a.jsonl").read_text().splitlines())
    assert row == {"text": "the red river", "ns": "1970-01-01T00:00:01.234567891",
                   "took": "P0DT0H0M0.000000005S", "raw": "/w==", "nan": None, "big": 2**64 - 1,
                   "map": [["k", 1]]}  # fmt: skip
    keep(tmp_path)
    assert pq.read_table(tmp_path / "kept" / "a.parquet").drop_columns("nan").equals(
        pq.read_table(tmp_path / "in" / "a.parquet").drop_columns("nan"))  # fmt: skip


def test_what_others_say_of_the_columns_stays(tmp_path, checkpoint):
    """Classes of Hugging Face's `datasets`, the index of pandas, and units of a column."""
    frame = pd.DataFrame({"text": ["the red river", "a stone"], "n": [1, 2]}, index=["x", "y"])
    table = pa.Table.from_pandas(frame)
    table = table.set_column(1, table.field("n").with_metadata({"unit": "s"}), table["n"])
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    with pa.ipc.new_file(tmp_path / "in" / "b.arrow", table.schema) as writer:
        writer.write_table(table)
    label(settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5), InProcess())
    keep(tmp_path)
    for name in ("a", "b"):
        found = pq.read_table(tmp_path / "kept" / f"{name}.parquet")
        assert found.schema.field("n").metadata[b"unit"] == b"s"
        assert found.to_pandas().equals(frame)
