"""Training tables in memory."""

import decimal
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.shards import write_shard

from fastbert.errors import FastBertError, InputError
from pipelines.input import texts as texts_module
from pipelines.input.batches import BATCH_ROWS
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import SliceReader, scan
from pipelines.input.unreadable import ShardError


@pytest.fixture
def corpus(tmp_path):
    write_shard(tmp_path / "a.parquet", ["one", None, "two"], label=["x", "y", "z"])
    write_shard(tmp_path / "b.parquet", ["three", ""], label=["x", "x"])
    return str(tmp_path)


def test_rows_without_text_are_left_out(corpus, caplog):
    examples, names = read_examples([corpus], InputColumns(labels=("label",)))
    assert "2 of 5 rows have no usable text and are left out" in caplog.text
    assert examples.texts == ["one", "two", "three"]
    assert names == ["x", "z"]
    assert examples.labels == [0, 1, 0]


def test_given_names_fix_the_order(corpus):
    examples, names = read_examples([corpus], InputColumns(labels=("label",)), ["z", "y", "x"])
    assert names == ["z", "y", "x"]
    assert examples.labels == [2, 0, 2]


def test_unlabelled(corpus):
    assert read_examples([corpus], InputColumns())[0].labels is None


def test_integer_labels_are_names(tmp_path):
    write_shard(tmp_path / "a.parquet", ["one", "two"], label=[7, 3])
    examples, names = read_examples([str(tmp_path)], InputColumns(labels=("label",)))
    assert names == ["3", "7"]
    assert examples.labels == [1, 0]


def test_labels_of_several_types(tmp_path):
    """One class, however many zeros a type writes."""
    half = decimal.Decimal("0.5")
    write_shard(tmp_path / "in" / "a.parquet", ["one"], label=pa.array([half], pa.decimal128(4, 1)))
    write_shard(tmp_path / "in" / "b.parquet", ["two"], label=pa.array([half], pa.decimal128(4, 2)))
    assert read_examples([str(tmp_path / "in")], InputColumns(labels=("label",)))[1] == ["0.5"]
    write_shard(tmp_path / "in" / "c.parquet", ["three"], label=["half"])
    names = read_examples([str(tmp_path / "in")], InputColumns(labels=("label",)))[1]
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
        (InputColumns(labels=("class",)), "no column 'class'"),
    ],
)
def test_missing_columns(corpus, columns, message):
    with pytest.raises(InputError, match=message):
        read_examples([corpus], columns)


def test_unknown_and_missing_labels(corpus, tmp_path):
    with pytest.raises(InputError, match="label 'z' in column 'label' is not one of"):
        read_examples([corpus], InputColumns(labels=("label",)), ["x", "y"])
    write_shard(tmp_path / "more" / "c.parquet", ["one"], label=pa.array([None], pa.string()))
    with pytest.raises(InputError, match="1 of 1 rows have no label in column 'label'"):
        read_examples([str(tmp_path / "more")], InputColumns(labels=("label",)))


def test_what_the_labelling_job_would_not_label_is_not_learned_from(tmp_path):
    bad = pa.array([b"one", b"\xff", b" \n", b"two"]).view(pa.string())
    pq.write_table(pa.table({"text": bad, "label": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["three"], "label": ["x"]}), tmp_path / "b.parquet")
    examples, names = read_examples([str(tmp_path)], InputColumns(labels=("label",)))
    assert examples.texts == ["one", "two", "three"]
    assert (names, examples.labels) == (["1", "4", "x"], [0, 1, 2])


def test_columns_of_other_types(tmp_path):
    table = pa.table({"text": ["a"], "label": [["x"]], "number": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column 'number' is of type int64, expected string"):
        read_examples([str(tmp_path)], InputColumns(text="number"))
    with pytest.raises(InputError, match="'label' is of type list<.*>, expected numbers or UTF-8"):
        read_examples([str(tmp_path)], InputColumns(labels=("label",)))


def test_no_text_at_all_and_no_parquet(tmp_path):
    write_shard(tmp_path / "in" / "a.parquet", [None, ""])
    with pytest.raises(InputError, match="no row of"):
        read_examples([str(tmp_path / "in")], InputColumns())
    (tmp_path / "b.parquet").write_bytes(b"hello")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_examples([str(tmp_path / "b.parquet")], InputColumns())


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["one", None, "two"], pa.large_string()),
        pa.array(["one", None, "two"], pa.string_view()),
        pa.array(["one", None, "two"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_texts_of_all_types(tmp_path, column):
    pq.write_table(pa.table({"text": column, "label": [1, 2, 3]}), tmp_path / "a.parquet")
    examples, names = read_examples([str(tmp_path)], InputColumns(labels=("label",)))
    assert (examples.texts, names, examples.labels) == (["one", "two"], ["1", "3"], [0, 1])


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (["body", "Text"], ["a", "a"]),
        (["text", "text"], ["a", "a"]),
        (["text"], [b"a"]),
        (["text"], [None]),
        (["text"], [["a"]]),
        (["text"], [{"a": "a"}]),
    ],
    ids=str,
)
def test_a_table_is_refused_as_the_labelling_job_refuses_it(tmp_path, names, values):
    table = pa.table([pa.array([value]) for value in values], names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ShardError) as labelling:
        scan(*find_shards([str(tmp_path)]), InputColumns())
    with pytest.raises(InputError, match=re.escape(f"a.parquet: {labelling.value}")):
        read_examples([str(tmp_path)], InputColumns())


def test_one_bad_shard_is_enough(tmp_path):
    write_shard(tmp_path / "a.parquet", ["one"])
    (tmp_path / "b.parquet").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"b\.parquet: is not a regular file, but a broken link"):
        read_examples([str(tmp_path)], InputColumns())


def test_bytes_that_have_changed_are_not_learned_from(tmp_path):
    table = pa.table({"text": ["the red stone"]})
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table, tmp_path / "a.parquet", **options, write_statistics=False)
    written = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(written.replace(b"the red", b"the rod"))
    with pytest.raises(InputError, match="cannot be read as Parquet: .*CRC"):
        read_examples([str(tmp_path)], InputColumns())


@pytest.mark.parametrize("faults", [1, 1000])
def test_a_store_that_does_not_answer_is_asked_again(corpus, monkeypatch, faults):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    opened, left = Shard.open, [faults]

    def faulty(shard):
        if left[0]:
            left[0] -= 1
            raise ConnectionError("try later")
        return opened(shard)

    monkeypatch.setattr(Shard, "open", faulty)
    if faults == 1:
        assert len(read_examples([corpus], InputColumns())[0]) == 3
        return
    with pytest.raises(FastBertError, match=r"a\.parquet: cannot be read, tried .*later") as raised:
        read_examples([corpus], InputColumns())
    assert raised.value.exit_code == 1


def test_rows_are_decoded_a_few_at_a_time_and_only_those_that_are_drawn(tmp_path, monkeypatch):
    rows = 5 * BATCH_ROWS
    table = pa.table({"text": [f"row {i}" for i in range(rows)], "label": range(rows)})
    pq.write_table(table, tmp_path / "a.parquet")  # one row group
    decode, sizes, spans = texts_module.decode, [], []
    monkeypatch.setattr(
        texts_module, "decode", lambda column: (sizes.append(len(column)), decode(column))[1]
    )
    read = SliceReader.read
    monkeypatch.setattr(
        SliceReader, "read", lambda self, piece: (spans.append(piece.rows), read(self, piece))[1]
    )
    everything, names = read_examples([str(tmp_path)], InputColumns(labels=("label",)))
    assert max(sizes) <= BATCH_ROWS
    assert sum(sizes) == len(everything) == rows
    sizes.clear(), spans.clear()
    columns = InputColumns(labels=("label",))
    some, _ = read_examples([str(tmp_path)], columns, names, sample=3, seed=2)
    drawn = np.sort(np.random.default_rng(2).choice(rows, 3, False))
    assert some.texts == [f"row {i}" for i in drawn]
    assert some.labels is not None
    assert [names[label] for label in some.labels] == [str(i) for i in drawn]
    assert sum(sizes) == 3
    assert sum(spans) <= 2 * BATCH_ROWS  # what lies between rows that are far apart is not read


def test_the_class_is_not_the_text(corpus):
    with pytest.raises(InputError, match="'text' is given both as text and as label"):
        read_examples([corpus], InputColumns(labels=("text",)))


@pytest.mark.parametrize("dictionary", [False, True])
def test_not_a_number_is_a_missing_label(tmp_path, dictionary):
    labels = pa.array([0.0, math.nan, 1.0])
    labels = labels.dictionary_encode() if dictionary else labels
    write_shard(tmp_path / "a.parquet", ["one", "two", "three"], label=labels)
    for names in (None, ["0", "1", "nan"]):
        with pytest.raises(InputError, match="1 of 3 rows have no label in column 'label'"):
            read_examples([str(tmp_path)], InputColumns(labels=("label",)), names)
    write_shard(tmp_path / "a.parquet", ["one", "two"], label=pa.nulls(2))
    with pytest.raises(InputError, match="2 of 2 rows have no label in column 'label'"):
        read_examples([str(tmp_path)], InputColumns(labels=("label",)))


def test_a_class_has_one_name_in_all_files(tmp_path):
    for i, value in enumerate([1, 1.0, "1", decimal.Decimal("1.00")]):
        write_shard(tmp_path / f"{i}.parquet", ["one"], label=[value])
    examples, names = read_examples([str(tmp_path)], InputColumns(labels=("label",)))
    assert (names, examples.labels) == (["1"], [0] * 4)


@pytest.mark.parametrize("label", ["pos ", "Pos", "\uff50os", "p\u200bos"])
def test_an_unknown_label_that_looks_like_a_class_says_which(tmp_path, label):
    write_shard(tmp_path / "a.parquet", ["one"], label=[label])
    with pytest.raises(
        InputError, match="is not one of the model's: neg, pos; .* from 'pos' only in"
    ):
        read_examples([str(tmp_path)], InputColumns(labels=("label",)), ["neg", "pos"])
