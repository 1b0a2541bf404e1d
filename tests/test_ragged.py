"""What GPUs do, on a CPU: attention over rows of any lengths at once, two pools in turn, numbers
that travel; the kernel's place is taken by a loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engines import KINDS, at, engine, soft
from support.models import random_tokens

from fastbert.inference.engine import Engine
from fastbert.packed import ragged
from fastbert.packed.attention import attend
from fastbert.packed.batching import Batch

PROPERTY = settings(max_examples=6, deadline=None, derandomize=True)
LENGTHS = st.lists(st.integers(2, 23), min_size=1, max_size=12)


def loop(query, key, value, looking, seen, most_looking, most_seen, window_size=(-1, -1)):
    """As `torch.nn.attention.varlen.varlen_attn`, row by row, and as particular."""
    assert type(most_looking) is type(most_seen) is int
    for bounds, tokens in ((looking, query), (seen, key), (seen, value)):
        assert bounds.dtype == torch.int32
        assert bounds.is_contiguous()
        assert bounds[-1] <= len(tokens)
        assert tokens.stride(-1) == 1
    found = torch.full_like(query, math.nan)
    for a, b, c, d in zip(looking, looking[1:], seen, seen[1:], strict=False):
        assert b - a <= most_looking
        assert d - c <= most_seen
        q, k, v = query[a:b], key[c:d], value[c:d]
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
        if window_size[0] >= 0:
            apart = torch.arange(b - a)[:, None] - torch.arange(d - c)
            scores.masked_fill_(apart.abs() > window_size[0], -math.inf)
        found[a:b] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    return found


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(ragged, "kernel", lambda device, dtype: loop)
    monkeypatch.setattr(ragged, "fits", lambda query: True)


def like_a_gpu(kind: str) -> Engine:
    made = engine(kind)
    assert made.ragged
    made.pools = 2
    return made


@pytest.mark.parametrize("kind", KINDS)
@PROPERTY
@given(lengths=LENGTHS, seed=st.integers(0, 99), share=st.floats(0.2, 1))
def test_answers_are_those_of_groups(kind, lengths, seed, share):
    tokens = random_tokens(lengths, seed, special=True)
    deep = np.random.default_rng(seed).random(len(tokens)) < 0.3
    plain = engine(kind)
    for rule in (at(share, plain), soft(share, plain)):
        expected = plain.classify(tokens, rule, deep)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ragged, "kernel", lambda device, dtype: loop)
            patch.setattr(ragged, "fits", lambda query: True)
            found = like_a_gpu(kind).classify(tokens, rule, deep)
        for name in ("exit", "audited"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        for name in ("answer", "deep"):
            mine, theirs = getattr(found, name), getattr(expected, name)
            np.testing.assert_array_equal(mine["label"], theirs["label"])
            np.testing.assert_allclose(mine["score"], theirs["score"], atol=1e-6)


@pytest.mark.parametrize("window", [None, 1, 3])
def test_control_rows_do_not_see_each_other(kernel, window):
    lengths = np.array([9, 5, 5, 1])
    batch = Batch(lengths, ragged=True)
    mixed = torch.randn(batch.span.stop, 3 * 8, dtype=torch.float64)
    found = attend(mixed, batch, 2, window)
    assert torch.allclose(found[:20], attend(mixed, Batch(lengths), 2, window)[:20])
    one = attend(mixed, Batch(np.array([20]), ragged=True), 2, window)
    assert not torch.allclose(found[:20], one[:20])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(0, 500))
def test_where_tokens_are(lengths, begin):
    batch = Batch(np.array(lengths), begin)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    assert batch.own == slice(begin, begin + len(rows))
    assert len(batch.row) == len(batch.places) == batch.span.stop - begin
    assert batch.row[: len(rows)].tolist() == rows.tolist()
    assert batch.row[len(rows) :].tolist() == [len(lengths)] * batch.surplus
    places = [place for length in lengths for place in range(length)]
    assert batch.places.tolist() == places + [0] * batch.surplus
    assert batch.bounds.tolist() == [0, *np.cumsum(lengths)]


def test_none_on_a_cpu():
    assert ragged.kernel(torch.device("cpu"), torch.bfloat16) is None
    assert not engine("bert").ragged


@pytest.mark.parametrize(("size", "fits"), [(64, True), (256, True), (264, False), (12, False)])
def test_sizes_of_heads(size, fits):
    assert ragged.fits(torch.empty(1, 1, size)) == fits
