"""Pools, batches and groups cover every row once, in order, within their limits."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastbert.packed.batching import groups, longest_first, pools

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
