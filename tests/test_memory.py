"""The engine where memory is short: batches and pools are halved, and nothing else changes."""

from types import SimpleNamespace
from weakref import ref

import numpy as np
import psutil
import pytest
import torch
from support.engines import at, engine, soft
from support.models import random_tokens, tiny_fastbert

from fastbert.inference import decisions
from fastbert.inference.engine import Engine

TOKENS = random_tokens([5, 9, 2, 17, 9, 11, 4, 9, 20, 3], seed=4)
ON_GPU = torch.OutOfMemoryError("CUDA out of memory")
ON_CPU = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")


def short_of_memory(engine: Engine, tokens: int, error: Exception = ON_GPU) -> list[int]:
    """Layers of the engine take at most so many tokens at a time; returns what is tried."""
    tried = []
    real = engine.encoder.layer

    def layer(k, hidden, batch):
        tried.append(batch.tokens)
        if tried[-1] > tokens:
            raise error
        return real(k, hidden, batch)

    engine.encoder.layer = layer
    return tried


@pytest.mark.parametrize("error", [ON_GPU, ON_CPU])
def test_a_batch_that_does_not_fit_is_halved_and_the_budget_remembered(error):
    tokens = random_tokens(np.arange(2, 22), seed=3)
    small = engine("bert", batch_tokens=10_000)
    tried = short_of_memory(small, 40, error)
    found = small.classify(tokens, at(0.6, small))
    expected = engine("bert").classify(tokens, at(0.6, small))
    np.testing.assert_allclose(found.answer["score"], expected.answer["score"])
    assert max(tried) > 40  # control: the limit was hit
    tried.clear()
    small.classify(tokens, at(0.6, small))
    assert max(tried) <= 40


@pytest.mark.parametrize(("kind", "rule"), [("scattered", at), ("bag", soft)])
@pytest.mark.parametrize(("fails", "limit"), [("states", 140), ("gather", 100)])
def test_a_pool_that_does_not_fit_is_halved_and_remembered(fails, limit, kind, rule, monkeypatch):
    """Its hidden states, or those of the survivors that are gathered beside them."""
    tokens = random_tokens(np.arange(2, 22), seed=3)
    deep = np.arange(len(tokens)) % 4 == 0
    small = engine(kind, pool_tokens=10_000)
    tried = []
    if fails == "states":
        real = torch.empty

        def limited(shape, **options):
            tried.append(shape[0])
            if shape[0] > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(shape, **options)

        monkeypatch.setattr(torch, "empty", limited)
    else:
        gather = torch.Tensor.index_select

        def limited(self, dim, index):
            tried.append(len(index) * (self.ndim == 2))
            if self.ndim == 2 and len(index) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return gather(self, dim, index)

        monkeypatch.setattr(torch.Tensor, "index_select", limited)
    found = small.classify(tokens, rule(0.6, small), deep)
    assert max(tried) > limit  # control: the limit was hit
    tried.clear()
    small.classify(tokens, rule(0.6, small), deep)
    assert max(tried) <= limit
    monkeypatch.undo()
    expected = engine(kind).classify(tokens, rule(0.6, small), deep)
    assert np.array_equal(found.exit, expected.exit)
    assert np.array_equal(found.answer["label"], expected.answer["label"])
    np.testing.assert_allclose(found.answer["score"], expected.answer["score"], atol=1e-9)
    assert np.array_equal(found.deep["label"][deep], expected.deep["label"][deep])
    assert np.array_equal(found.audited, deep)


@pytest.mark.parametrize(("rows", "budget", "limit"), [(20, 100, 200), (2, 9, 140)])
def test_a_pool_that_fits_alone_waits_for_the_other(rows, budget, limit, monkeypatch):
    """Two are at work, as on a GPU, and their states do not fit together; of one row, too."""
    tokens = random_tokens(np.full(rows, 9), seed=3)
    small, alive = engine("bert", pool_tokens=budget, batch_tokens=9), []
    small.pools, real = 2, torch.empty

    def limited(shape, **options):
        taken = sum(len(each()) for each in alive if each() is not None)
        if taken and taken + shape[0] > limit:
            raise ON_GPU
        found = real(shape, **options)
        alive.append(ref(found))
        return found

    monkeypatch.setattr(torch, "empty", limited)
    found = small.classify(tokens, at(0.6, small))
    monkeypatch.undo()
    expected = engine("bert").classify(tokens, at(0.6, small))
    assert np.array_equal(found.exit, expected.exit)
    np.testing.assert_allclose(found.answer["score"], expected.answer["score"], atol=1e-9)
    assert small.pools == 1
    assert small.pool_tokens == budget


def test_what_was_heard_before_memory_was_short_is_not_heard_twice(monkeypatch):
    tokens, short = random_tokens(np.arange(2, 22), seed=3), engine("bag")
    expected = short.classify(tokens, soft(0.6, short))
    real, calls = decisions.on_host, []

    def limited(numbers):
        calls.append(len(calls))
        if calls[-1] == 1:
            raise ON_GPU
        return real(numbers)

    monkeypatch.setattr(decisions, "on_host", limited)
    found = engine("bag").classify(tokens, soft(0.6, short))
    assert len(calls) > 3
    assert np.array_equal(found.exit, expected.exit)
    np.testing.assert_allclose(found.uncertainty, expected.uncertainty, atol=1e-7)


def test_a_pool_is_no_larger_than_the_free_memory_allows(monkeypatch, tmp_path):
    width = tiny_fastbert().encoder.width
    monkeypatch.setattr("fastbert.inference.memory.CGROUP", tmp_path)

    def pool(free: int) -> int:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
        return Engine(tiny_fastbert(), batch_tokens=10).pool_tokens

    assert pool(1 << 40) == 1 << 20
    assert pool(4 * 2 * 4 * width << 16) == 1 << 16
    assert pool((4 * 2 * 4 * width << 16) - 1) == 1 << 15
    assert pool(0) == 10
    (tmp_path / "memory.max").write_text(f"{(4 * 2 * 4 * width << 12) + 999}\n")
    (tmp_path / "memory.current").write_text("999\n")
    monkeypatch.setattr("fastbert.inference.memory.CGROUP", tmp_path)
    assert pool(1 << 40) == 1 << 12  # a container's limit counts, too
    (tmp_path / "memory.max").write_text("max\n")
    assert pool(1 << 40) == 1 << 20


def test_sizes_of_batches_repeat():
    """What oneDNN compiles for each size stays in memory: random sizes made a replica twice as
    large after a million rows."""
    sizes = set()
    watched = engine("bert", batch_tokens=300, pool_tokens=10_000)
    real = watched.encoder.layer

    def counting(k, hidden, batch):
        sizes.add(len(hidden))
        return real(k, hidden, batch)

    watched.encoder.layer = counting
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(2, 24, 60)
        watched.classify(random_tokens(lengths, seed), at(0.6, watched))
    assert 1 < len(sizes) <= 5


def test_one_row_that_does_not_fit_is_an_error():
    broken = engine("bert")
    short_of_memory(broken, 1)
    with pytest.raises(torch.OutOfMemoryError):
        broken.classify(TOKENS, at(0, broken))
