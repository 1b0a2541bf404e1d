"""Batches and pools cover every row once, in order, within their limits."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastbert.batching import longest_first, padded_batches, pools

LENGTHS = st.lists(st.integers(1, 60), max_size=40).map(lambda x: np.array(x, np.int64))


def covers(ranges: list[tuple[int, int]], rows: int) -> bool:
    return [i for start, stop in ranges for i in range(start, stop)] == list(range(rows))


@given(LENGTHS, st.integers(1, 300))
def test_batches(lengths, budget):
    lengths = -np.sort(-lengths)
    batches = padded_batches(lengths, budget)
    assert covers(batches, len(lengths))
    for start, stop in batches:
        padded = (stop - start) * lengths[start]
        assert padded <= budget or stop - start == 1


@given(LENGTHS, st.integers(1, 300))
def test_pools(lengths, limit):
    ranges = pools(lengths, limit)
    assert covers(ranges, len(lengths))
    for start, stop in ranges:
        assert lengths[start:stop].sum() <= limit or stop - start == 1
    for (start, stop), (_, next_stop) in zip(ranges, ranges[1:], strict=False):
        assert next_stop > stop
        assert lengths[start : stop + 1].sum() > limit  # control: no pool is cut short


@given(LENGTHS)
def test_longest_first_is_stable(lengths):
    order = longest_first(lengths)
    assert sorted(order) == list(range(len(lengths)))
    keys = [(-lengths[i], i) for i in order]
    assert keys == sorted(keys)
