"""Carried columns of all types come out as they went in."""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hostile.harness import (
    TEXTS,
    Expected,
    Kinds,
    bad,
    check_kind,
    numbered,
    write,
)

KINDS = Kinds()


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


@KINDS.each("carried", CARRIED)
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


@KINDS.each("dictionary-in", NESTED_DICTIONARIES)
def nested_dictionary(folder: Path, make: Callable[[], pa.Array]) -> Expected:
    expected = write(folder, numbered(TEXTS, extra=make()))
    expected.settings = {"slice_rows": 7}
    return expected


@KINDS.each("dictionaries-in", NESTED_DICTIONARIES)
def nested_dictionaries(folder: Path, make: Callable[[], pa.Array]) -> Expected:
    """One per row group: Arrow cannot read those."""
    write(folder, numbered(TEXTS, extra=make()), row_group_size=3)
    return bad(folder, "cannot be read as Parquet: Nested data conversions not implemented")


@KINDS.add
def int96_timestamps(folder: Path) -> Expected:
    stamps = twenty(pa.timestamp("ns"), DAY)
    return write(folder, numbered(TEXTS, at=stamps), use_deprecated_int96_timestamps=True)


@pytest.mark.parametrize("name", KINDS)
def test_kind(name, tmp_path, job):
    check_kind(KINDS[name], tmp_path, job)
