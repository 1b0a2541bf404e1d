"""Training tables in memory."""

import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.shards import write_shard

from fastbert.errors import InputError
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples


@pytest.fixture
def corpus(tmp_path):
    write_shard(tmp_path / "a.parquet", ["one", None, "two"], label=["x", "y", "z"])
    write_shard(tmp_path / "b.parquet", ["three", ""], label=["x", "x"])
    return str(tmp_path)


def test_rows_without_text_are_left_out(corpus):
    examples, names = read_examples([corpus], InputColumns(label="label"))
    assert examples.texts == ["one", "two", "three"]
    assert names == ["x", "z"]
    assert examples.labels == [0, 1, 0]


def test_given_names_fix_the_order(corpus):
    examples, names = read_examples([corpus], InputColumns(label="label"), ["z", "y", "x"])
    assert names == ["z", "y", "x"]
    assert examples.labels == [2, 0, 2]


def test_unlabelled(corpus):
    assert read_examples([corpus], InputColumns())[0].labels is None


def test_integer_labels_are_names(tmp_path):
    write_shard(tmp_path / "a.parquet", ["one", "two"], label=[7, 3])
    examples, names = read_examples([str(tmp_path)], InputColumns(label="label"))
    assert names == ["3", "7"]
    assert examples.labels == [1, 0]


def test_labels_of_several_types(tmp_path):
    """One class, however many zeros a type writes."""
    half = decimal.Decimal("0.5")
    write_shard(tmp_path / "in" / "a.parquet", ["one"], label=pa.array([half], pa.decimal128(4, 1)))
    write_shard(tmp_path / "in" / "b.parquet", ["two"], label=pa.array([half], pa.decimal128(4, 2)))
    assert read_examples([str(tmp_path / "in")], InputColumns(label="label"))[1] == ["0.5"]
    write_shard(tmp_path / "in" / "c.parquet", ["three"], label=["half"])
    names = read_examples([str(tmp_path / "in")], InputColumns(label="label"))[1]
    assert names == ["0.5", "half"]


def test_pairs(tmp_path):
    other = pa.array(["uno", None], pa.string())
    write_shard(tmp_path / "a.parquet", ["one", "two"], other=other)
    examples, _ = read_examples([str(tmp_path)], InputColumns(pair="other"))
    assert (examples.texts, examples.pairs) == (["one"], ["uno"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (InputColumns("body"), r"no column 'body'; its columns are text, id, label"),
        (InputColumns(pair="other"), "no column 'other'"),
        (InputColumns(label="class"), "no column 'class'"),
    ],
)
def test_missing_columns(corpus, columns, message):
    with pytest.raises(InputError, match=message):
        read_examples([corpus], columns)


def test_unknown_and_missing_labels(corpus, tmp_path):
    with pytest.raises(InputError, match="label 'z' in column 'label' is not one of"):
        read_examples([corpus], InputColumns(label="label"), ["x", "y"])
    write_shard(tmp_path / "more" / "c.parquet", ["one"], label=pa.array([None], pa.string()))
    with pytest.raises(InputError, match="1 of 1 rows have no label in column 'label'"):
        read_examples([str(tmp_path / "more")], InputColumns(label="label"))


def test_what_the_labelling_job_would_not_label_is_not_learned_from(tmp_path):
    bad = pa.array([b"one", b"\xff", b" \n", b"two"]).view(pa.string())
    pq.write_table(pa.table({"text": bad, "label": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["three"], "label": ["x"]}), tmp_path / "b.parquet")
    examples, names = read_examples([str(tmp_path)], InputColumns(label="label"))
    assert examples.texts == ["one", "two", "three"]
    assert (names, examples.labels) == (["1", "4", "x"], [0, 1, 2])


def test_columns_of_other_types(tmp_path):
    table = pa.table({"text": ["a"], "label": [["x"]], "number": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column 'number' is of type int64, expected string"):
        read_examples([str(tmp_path)], InputColumns(text="number"))
    with pytest.raises(InputError, match="'label' is of type list<.*>, expected numbers or UTF-8"):
        read_examples([str(tmp_path)], InputColumns(label="label"))


def test_no_text_at_all_and_no_parquet(tmp_path):
    write_shard(tmp_path / "in" / "a.parquet", [None, ""])
    with pytest.raises(InputError, match="no row of"):
        read_examples([str(tmp_path / "in")], InputColumns())
    (tmp_path / "b.parquet").write_bytes(b"hello")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_examples([str(tmp_path / "b.parquet")], InputColumns())
