"""Class names are read alike from every type that holds them."""

import math
from decimal import Decimal

import pyarrow as pa
import pytest

from fastbert.errors import InputError
from pipelines.input.labels import class_names


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
