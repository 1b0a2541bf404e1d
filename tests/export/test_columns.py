"""Columns of the tables: added, missing, renamed, of types that it does not have."""

from datetime import time, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from export.output import ROWS, check
from fastbert.errors import InputError


def test_columns_may_be_added_and_missing(output):
    output.label(("a", 0), id=int)
    output.export()
    output.label(("b", 0), id=int, language=lambda i: f"l{i}", nothing=lambda i: None)
    output.label(("c", 0), language=lambda i: "de")
    output.export()
    check(output, "run-1", "run-2", "run-3")
    assert "nothing" not in output.read().column_names


def test_a_list_without_any_element_takes_the_type_of_the_others(output):
    output.label(("a", 0), rows=1, column=pa.array([[]], pa.list_(pa.null())))
    output.label(("b", 0), rows=1, column=pa.array([[3]], pa.list_(pa.uint8())))
    output.label(("c", 0), rows=1, column=pa.array([None], pa.list_(pa.null())))
    output.export()
    output.label(("d", 0), rows=1, column=pa.array([[]], pa.list_(pa.null())))
    output.export()
    table = output.read().sort_by("shard")
    assert table["column"].to_pylist() == [[], [3], None, []]


def test_late_runs_of_other_types_share_the_widest(output):
    output.label(("a", 0), id=int)
    output.label(("b", 0), id=float)
    output.export()
    check(output, "run-1", "run-2")


def test_columns_named_like_the_lineage_are_renamed(output):
    output.label(("a", 0), shard=lambda i: f"carried {i}")
    output.export()
    rows = output.read().to_pylist()
    assert {row["input_shard"] for row in rows} == {f"carried {i}" for i in range(ROWS)}
    assert {row["shard"] for row in rows} == {"a"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        (pa.array([255], pa.uint8()), 255),
        (pa.array([[65535]], pa.list_(pa.uint16())), [65535]),
        (pa.array([{"a": 2**32 - 1}], pa.struct([("a", pa.uint32())])), {"a": 2**32 - 1}),
        (pa.array([np.float16(1.5)], pa.float16()), 1.5),
        (pa.array([time(1, 2, 3)], pa.time64("us")), "01:02:03.000000"),
        (pa.array([timedelta(seconds=2)], pa.duration("s")), 2),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float16(), 2)), [1.0, 2.0]),
        (pa.array([[("k", 3)]], pa.map_(pa.string(), pa.uint8())), [("k", 3)]),
        (pa.array([b"ab"], pa.binary(2)), b"ab"),
        (pa.array([b"0123456789abcdef"], pa.uuid()), b"0123456789abcdef"),
        (pa.array([Decimal("1.50")], pa.decimal32(5, 2)), Decimal("1.50")),
        (pa.array([Decimal("1.50")], pa.decimal256(50, 2)), "1.50"),
        (pa.array([[]], pa.list_(pa.null())), []),
    ],
    ids=lambda value: str(getattr(value, "type", "")) or None,
)
def test_types_that_tables_do_not_have(output, values, expected):
    output.label(("a", 0), rows=1, column=values)
    output.export()
    output.label(("b", 0), rows=1, column=values)
    output.export()
    table = output.read()
    assert table["column"].to_pylist() == [expected] * 2
    assert "element: null" not in str(table.schema)


def test_nanoseconds_become_microseconds(output):
    output.label(("a", 0), rows=1, at=pa.array([1_234_567], pa.timestamp("ns", "Europe/Berlin")))
    output.export()
    found = output.read()["at"]
    assert found.type == pa.timestamp("us", "UTC")
    assert found.cast(pa.int64()).to_pylist() == [1234]


def test_a_column_that_would_lose_values_is_refused(output):
    output.label(("a", 0), rows=1, n=pa.array([1], pa.int32()))
    output.export()
    output.label(("b", 0), rows=1, n=pa.array([2**40], pa.int64()))
    with pytest.raises(InputError, match=r"'n' is int64 in the output, and int32.*another table"):
        output.export()
    assert output.history() == ["run-1"]
    output.elsewhere()  # as the message says
    output.export()
    check(output, "run-1", "run-2")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([{"x": int}, {"x": str}], "int64 vs string"),
        ([{"x": int}, {"X": int}], "x, X differ in case only"),
    ],
)
def test_columns_that_no_table_can_have_are_refused(output, columns, message):
    for place, each in enumerate(columns):
        output.label((f"s{place}", 0), **each)
    with pytest.raises(InputError, match=message):
        output.export()
    assert not output.exists()
