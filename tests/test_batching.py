"""Batches and groups cover every row once, in order, within their limits."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastbert.packed.batching import batch_rows, groups, longest_first

LENGTHS = st.lists(st.integers(1, 60), max_size=40).map(lambda x: np.array(x, np.int64))


def covers(ranges: list[tuple[int, int]], rows: int) -> bool:
    return [i for start, stop in ranges for i in range(start, stop)] == list(range(rows))


@given(LENGTHS)
def test_groups(lengths):
    found = groups(lengths)
    assert [g.length for g in found for _ in range(g.rows)] == lengths.tolist()
    spans = [(g.tokens.start, g.tokens.stop) for g in found]
    assert covers(spans, lengths.sum())
    assert all(
        stop - start == g.rows * g.length for g, (start, stop) in zip(found, spans, strict=True)
    )
    assert all(a.length != b.length for a, b in zip(found, found[1:], strict=False))


@given(LENGTHS.filter(len), st.integers(1, 300))
def test_batch_rows(lengths, limit):
    rows = batch_rows(lengths, limit)
    assert lengths[:rows].sum() <= limit or rows == 1
    if rows < len(lengths):
        assert lengths[: rows + 1].sum() > limit  # control: no batch is cut short


@given(LENGTHS)
def test_longest_first_is_stable(lengths):
    order = longest_first(lengths)
    assert sorted(order) == list(range(len(lengths)))
    keys = [(-lengths[i], i) for i in order]
    assert keys == sorted(keys)
