"""Class names are read alike from every type that holds them."""

import math
from dataclasses import replace
from decimal import Decimal

import pyarrow as pa
import pytest
from support.models import tiny_fastbert, tiny_tokenizer
from support.shards import random_texts, write_shard

from fastbert.errors import InputError
from pipelines.checkpoints.settings import TrainSettings
from pipelines.checkpoints.train import train
from pipelines.input.labels import class_names, look_alikes


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(),
        pa.uint64(),
        pa.float32(),
        pa.float64(),
        pa.decimal128(7, 2),
        pa.decimal256(50, 3),
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.dictionary(pa.int16(), pa.string()),
        pa.dictionary(pa.int8(), pa.float64()),
    ],
    ids=str,
)
def test_a_class_has_one_name_whatever_its_type(kind):
    text = pa.array(["1", None, "20", "0", "1"])
    values = text if kind in (pa.string(), pa.large_string()) else text.cast(_plain(kind))
    column = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    assert class_names(column) == ["1", None, "20", "0", "1"]
    assert class_names(pa.chunked_array([column[3:], column[:2]])) == ["0", "1", "1", None]


def _plain(kind):
    """What a text is cast to on the way to a type."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return pa.float64() if pa.types.is_decimal(kind) else kind


def test_not_a_number_is_no_class():
    nan = math.nan
    assert class_names(pa.array([1.0, nan, None])) == ["1", None, None]
    assert class_names(pa.array([1.0, nan]).dictionary_encode()) == ["1", None]
    assert class_names(pa.array(["nan", "NaN", "inf"])) == ["nan", "NaN", "inf"]
    assert class_names(pa.nulls(2)) == [None, None]
    assert class_names(pa.chunked_array([], pa.float64())) == []


def test_other_numbers_keep_their_digits():
    values = [0.5, -0.0, 1e16, 1e-7, -2.5, math.inf]
    names = ["0.5", "0", "10000000000000000", "0.0000001", "-2.5", "inf"]
    assert class_names(pa.array(values)) == names
    assert class_names(pa.array([0.1], pa.float32())) == ["0.1"]
    assert class_names(pa.array([Decimal("0.50"), Decimal("1" * 30 + ".10")])) == [
        "0.5",
        "1" * 30 + ".1",
    ]
    assert class_names(pa.array([True, False])) == ["true", "false"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["a"]]),
        pa.array([{"a": 1}]),
        pa.array([b"\xff"]),
        pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers()),
    ],
    ids=["list", "struct", "bytes", "not UTF-8"],
)
def test_what_names_nothing_is_refused(column):
    with pytest.raises(InputError, match=r"^is of type .*, expected numbers or UTF-8 strings$"):
        class_names(column)


@pytest.mark.parametrize(
    "group",
    [
        ["pos", "pos ", "Pos", "\u00a0POS", "p os", "p\u00ados", "\uff50\uff4f\uff53"],
        ["\u00e9t\u00e9", "e\u0301te\u0301", "\u00c9t\u00e9"],
        ["stra\u00dfe", "STRASSE"],
        ["1", "1.0", "1.00"],
        ["0.5", "0.50"],
        [""],
        [" ", "\u200b"],
    ],
)
def test_names_that_look_alike(group):
    assert look_alikes(["other", *group, "another"]) == [group]


def test_names_that_do_not_look_alike():
    names = [
        "pos",
        "neg",
        "1",
        "10",
        "0.1",
        "01",
        "ete",
        "\u00e9t\u00e9",
        "1e9",
        "1e99999999",
        "-1",
    ]
    assert look_alikes(names) == []


@pytest.fixture
def asked(tmp_path) -> TrainSettings:
    """Training that hardly does anything."""
    tiny_fastbert().backbone.save_pretrained(tmp_path / "backbone")
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path / "backbone")
    return TrainSettings(
        train=(str(tmp_path / "a.parquet"),),
        backbone=str(tmp_path / "backbone"),
        output=str(tmp_path / "model"),
        epochs=0.1,
        distil_epochs=0.1,
        max_length=16,
    )


def test_training_names_classes_that_look_alike(asked, tmp_path, caplog):
    labels = ["pos", "neg", "Pos", "pos "]
    write_shard(tmp_path / "a.parquet", random_texts(4), label=labels)
    assert train(asked)["classes"] == sorted(labels)
    assert "learnt as they are: 'Pos', 'pos', 'pos '; if" in caplog.text
    assert "'neg'" not in caplog.text
    assert "column 'label' has 4 classes for 4 rows" in caplog.text


def test_training_names_what_looks_like_no_label(asked, tmp_path, caplog):
    write_shard(tmp_path / "a.parquet", random_texts(4), label=["pos", "nan", "None", "neg"])
    train(asked)
    assert "look like missing labels are learnt as they are: 'None', 'nan'; drop" in caplog.text


@pytest.mark.parametrize(("text", "told"), [("\u6c34 \u6cb3", True), ("a river \u6c34", False)])
def test_training_tells_of_texts_that_the_tokenizer_does_not_know(
    asked, tmp_path, caplog, text, told
):
    write_shard(tmp_path / "a.parquet", [text] * 4, label=["pos", "neg"] * 2)
    train(asked)
    assert ("100 % of the tokens" in caplog.text) == told
    assert ("unknown to the tokenizer" in caplog.text) == told


def test_training_says_that_it_cannot_judge(asked, tmp_path, caplog):
    write_shard(tmp_path / "a.parquet", random_texts(4), label=["pos", "neg"] * 2)
    train(replace(asked, dev=asked.train))
    assert "not evaluated and not calibrated" in caplog.text


def test_training_refuses_one_class(asked, tmp_path):
    write_shard(tmp_path / "a.parquet", random_texts(4), label=["pos"] * 4)
    with pytest.raises(InputError, match="all rows of --train have one class, 'pos', in column"):
        train(asked)
