"""Rows that make a computation fail do not cost other rows their answer."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbert.errors import InputError, Stopped
from pipelines.labelling.isolate import isolate


class Panic(BaseException):
    """As extensions in Rust raise."""


def fine() -> None:
    """The machine works."""


@given(st.integers(0, 40), st.sets(st.integers(0, 39)), st.sampled_from([ValueError, Panic]))
def test_all_rows_but_the_poison_are_answered_in_order(n, poison, kind):
    def run(rows):
        if bad := poison & set(rows.tolist()):
            raise kind(f"row  {min(bad)}\nfails")
        return rows * 10

    parts, failed = isolate(run, np.arange(n), fine)
    rows = np.concatenate([rows for rows, _ in parts] or [[]])
    assert rows.tolist() == [i for i in range(n) if i not in poison]
    assert all(np.array_equal(result, rows * 10) for rows, result in parts)
    expected = {i: f"{kind.__name__}: row {i} fails" for i in poison if i < n}
    assert failed == expected


def test_without_failures_it_is_one_call():
    calls = []
    parts, failed = isolate(lambda rows: calls.append(len(rows)), np.arange(7), fine)
    assert calls == [7]
    assert len(parts) == 1
    assert failed == {}


@pytest.mark.parametrize("poison", [{777}, {0, 1023}, {5, 300, 301, 802, 900}])
def test_calls_grow_with_the_logarithm_of_the_rows(poison):
    """Those of `check` included: b bad rows among n cost at most b * (2 log2(n) + 1) and 2."""
    calls = []

    def run(rows):
        calls.append(len(rows))
        if poison & set(rows.tolist()):
            raise MemoryError
        return rows

    _, failed = isolate(run, np.arange(1024), lambda: calls.append(0))
    assert failed.keys() == poison
    assert len(calls) <= len(poison) * (2 * 10 + 1) + 2


@pytest.mark.parametrize("works", [0, 1, 5, 15])
def test_a_machine_that_fails_from_a_call_on_is_found_soon(works):
    """At once if that is the first, and else at the next row, before one is blamed."""
    made = []

    def run(rows):
        made.append(rows)
        if len(made) > works or 777 in rows:
            raise RuntimeError("broken")
        return rows

    def check():
        if len(made) > works:
            raise InputError("the machine fails")

    with pytest.raises(InputError, match="the machine fails"):
        isolate(run, np.arange(1024), check)
    assert len(made) <= (works + 11 if works else 1)


def test_a_check_finds_the_memory_free():
    """What a failed call holds is let go of before, or there might be too little again."""
    held = []

    class Large:
        """What a computation makes on its way."""

    def run(rows):
        large = Large()
        held.append(weakref.ref(large))
        raise MemoryError

    def check():
        assert held[-1]() is None

    isolate(run, np.arange(3), check)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Stopped, InputError])
def test_what_ends_the_run_is_no_failure_of_a_row(kind):
    def run(rows):
        raise kind("stopped by SIGTERM")

    with pytest.raises(kind):
        isolate(run, np.arange(3), fine)
