"""Rows that make a computation fail cost nobody else their answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbert.errors import Stopped
from pipelines.labelling.isolate import isolate


class Panic(BaseException):
    """As extensions in Rust raise."""


@given(st.integers(0, 40), st.sets(st.integers(0, 39)), st.sampled_from([ValueError, Panic]))
def test_all_rows_but_the_poison_are_answered_in_order(n, poison, kind):
    def run(rows):
        if bad := poison & set(rows.tolist()):
            raise kind(f"row  {min(bad)}\nfails")
        return rows * 10

    parts, failed = isolate(run, np.arange(n))
    rows = np.concatenate([rows for rows, _ in parts] or [[]])
    assert rows.tolist() == [i for i in range(n) if i not in poison]
    assert all(np.array_equal(result, rows * 10) for rows, result in parts)
    expected = {i: f"{kind.__name__}: row {i} fails" for i in poison if i < n}
    assert failed == expected


def test_without_failures_it_is_one_call():
    calls = []
    parts, failed = isolate(lambda rows: calls.append(len(rows)), np.arange(7))
    assert calls == [7]
    assert len(parts) == 1
    assert failed == {}


def test_one_poison_row_costs_few_calls():
    calls = []

    def run(rows):
        calls.append(len(rows))
        if 777 in rows:
            raise MemoryError
        return rows

    isolate(run, np.arange(1024))
    assert len(calls) == 1 + 2 * 10


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_being_stopped_is_no_failure_of_a_row(kind):
    def run(rows):
        raise kind

    with pytest.raises(kind):
        isolate(run, np.arange(3))


def test_what_stops_the_run_is_no_fault_of_rows():
    def run(rows):
        raise Stopped("stopped by SIGTERM")

    with pytest.raises(Stopped):
        isolate(run, np.arange(3))
