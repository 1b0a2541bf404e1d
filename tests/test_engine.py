"""The engine against the slow reference: for every family, whatever the lengths and batches.

Each property is a function that a correct engine passes; each is also shown to fail for an engine
with the very bug it is there for.
"""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import FAMILIES, LAYERS, random_tokens, tiny_fastbert
from support.reference import all_layers, answer, gap_threshold

from fastbert.calibration.evaluation import exit_outputs
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.tokens import Tokens
from fastbert.packed.batching import Group

LENGTHS = st.lists(st.integers(2, 23), min_size=1, max_size=17)
PROPERTY = settings(max_examples=12, deadline=None, derandomize=True)


@cache
def model(family: str):
    return tiny_fastbert(family)


def engine(family: str, batch_tokens: int = 50, pool_tokens: int = 130) -> Engine:
    """Limits so small that a handful of rows makes several batches and pools.

    In float64, so that rounding explains no difference that a bug has made.
    """
    return made(Engine, family, batch_tokens=batch_tokens, pool_tokens=pool_tokens)


def made(kind: type[Engine], family: str, **options) -> Engine:
    """An engine that remembers its model, for the reference."""
    built = kind(model(family), dtype=torch.float64, **options)
    built.model = model(family)
    return built


def row(tokens: Tokens, i: int) -> Tokens:
    span = slice(tokens.offsets[i], tokens.offsets[i + 1])
    types = None if tokens.types is None else tokens.types[span]
    return Tokens(tokens.ids[span], np.array([0, tokens.lengths[i]]), types)


def check_threshold_zero_is_the_full_model(engine: Engine, tokens: Tokens) -> None:
    found = engine.classify(tokens, np.zeros(LAYERS - 1))
    assert (found.exit_layer == LAYERS).all()
    for i in range(len(tokens)):
        last = all_layers(engine.model, tokens, i)[-1]
        assert found.label[i] == last.argmax()
        assert found.score[i] == pytest.approx(last.max(), abs=1e-5)


def check_exits_equal_the_reference(engine: Engine, tokens: Tokens, share: float) -> None:
    probabilities = [all_layers(engine.model, tokens, i) for i in range(len(tokens))]
    thresholds = np.full(LAYERS - 1, gap_threshold(probabilities, share))
    found = engine.classify(tokens, thresholds)
    for i, p in enumerate(probabilities):
        expected = answer(p, thresholds)
        assert found.exit_layer[i] == expected.exit_layer
        assert found.label[i] == expected.label
        assert found.score[i] == pytest.approx(expected.score, abs=1e-5)
        assert found.uncertainty[i] == pytest.approx(expected.uncertainty, abs=1e-5)


def check_a_row_alone_equals_the_row_in_a_slice(
    engine: Engine, tokens: Tokens, share: float
) -> None:
    probabilities = [all_layers(engine.model, tokens, i) for i in range(len(tokens))]
    thresholds = np.full(LAYERS - 1, gap_threshold(probabilities, share))
    together = engine.classify(tokens, thresholds)
    for i in range(len(tokens)):
        alone = Engine(engine.model, dtype=torch.float64).classify(row(tokens, i), thresholds)
        assert together.label[i] == alone.label[0]
        assert together.exit_layer[i] == alone.exit_layer[0]
        assert together.score[i] == pytest.approx(alone.score[0], abs=1e-5)


def check_every_row_is_answered_once(engine: Engine, tokens: Tokens, share: float) -> None:
    """Counts the answers that leave the network, instead of trusting the result arrays."""
    uncertainties = exit_outputs(Engine(engine.model, dtype=torch.float64), tokens).uncertainties()
    thresholds = np.full(LAYERS - 1, np.quantile(uncertainties, share))
    answered = np.zeros(len(tokens), int)
    real_walk = engine._walk

    def counting_walk(tokens, decide, **options):
        def counting_decide(layer, rows, logits):
            stays = decide(layer, rows, logits)
            answered[rows[~stays]] += 1
            if layer == LAYERS:
                answered[rows[stays]] += 1
            return stays

        real_walk(tokens, counting_decide, **options)

    engine._walk = counting_walk
    found = engine.classify(tokens, thresholds)
    assert (answered == 1).all()
    assert (found.exit_layer >= 1).all()
    assert (found.label >= 0).all()


@pytest.mark.parametrize("family", FAMILIES)
@PROPERTY
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_threshold_zero_is_the_full_model(family, lengths, seed):
    check_threshold_zero_is_the_full_model(engine(family), random_tokens(lengths, seed))


@pytest.mark.parametrize("family", FAMILIES)
@PROPERTY
@given(lengths=LENGTHS, seed=st.integers(0, 99), share=st.floats(0, 1), pairs=st.booleans())
def test_exits_equal_the_reference(family, lengths, seed, share, pairs):
    tokens = random_tokens(lengths, seed, pairs=pairs and family in ("bert", "electra"))
    check_exits_equal_the_reference(engine(family), tokens, share)


@pytest.mark.parametrize("family", FAMILIES)
@PROPERTY
@given(lengths=LENGTHS, seed=st.integers(0, 99), share=st.floats(0, 1))
def test_a_row_alone_equals_the_row_in_a_slice(family, lengths, seed, share):
    tokens = random_tokens(lengths, seed)
    check_a_row_alone_equals_the_row_in_a_slice(engine(family), tokens, share)


@pytest.mark.parametrize("family", FAMILIES)
@PROPERTY
@given(lengths=LENGTHS, seed=st.integers(0, 99), share=st.floats(0, 1))
def test_every_row_is_answered_once(family, lengths, seed, share):
    check_every_row_is_answered_once(engine(family), random_tokens(lengths, seed), share)


# Negative controls: engines with the bugs that early-exit code is known for.


class RowsSeeEachOther(Engine):
    """Attention goes over all that lies in a batch, whosever token it is."""

    def _layer(self, layer, hidden, *rest):
        real = self.layers[layer - 1]
        self.layers[layer - 1] = lambda x, groups: real(x, [Group(slice(0, len(x)), 1, len(x))])
        self.batch_tokens = len(hidden)
        try:
            return super()._layer(layer, hidden, *rest)
        finally:
            self.layers[layer - 1] = real


class OrderNotRestored(Engine):
    """Answers stay in length order."""

    def _walk(self, tokens, decide, **options):
        order = np.argsort(-tokens.lengths, kind="stable")
        place = np.argsort(order)
        super()._walk(tokens, lambda k, rows, p: decide(k, place[rows], p), **options)


class BatchLeavesTogether(Engine):
    """The whole batch waits for its slowest row: exit layers are one number per batch."""

    def _walk(self, tokens, decide, **options):
        def wait(layer, rows, logits):
            if (decide(layer, rows, logits)).any():
                return np.ones(len(rows), bool)
            return np.zeros(len(rows), bool)

        super()._walk(tokens, wait, **options)


class LastLayerForgets(Engine):
    """Rows that are never sure get no answer (zero probabilities, label 0)."""

    def _walk(self, tokens, decide, **options):
        def forget(layer, rows, logits):
            return decide(layer, rows, logits) if layer < LAYERS else np.zeros(len(rows), bool)

        super()._walk(tokens, forget, **options)


class SurvivorsMixedUp(Engine):
    """After the first layer survivors carry each other's hidden states."""

    def _layer(self, layer, hidden, lengths, *rest):
        if layer == 2:
            own = lengths.sum()
            hidden[:own] = hidden[:own].flip(0)
        return super()._layer(layer, hidden, lengths, *rest)


def sabotaged(kind: type[Engine]) -> Engine:
    return made(kind, "bert", batch_tokens=50)


TOKENS = random_tokens([5, 9, 2, 17, 9, 11, 4, 9, 20, 3], seed=4)


@pytest.mark.parametrize("broken", [RowsSeeEachOther, OrderNotRestored, LastLayerForgets])
def test_control_threshold_zero(broken):
    with pytest.raises(AssertionError):
        check_threshold_zero_is_the_full_model(sabotaged(broken), TOKENS)


@pytest.mark.parametrize("broken", [RowsSeeEachOther, OrderNotRestored, SurvivorsMixedUp])
def test_control_exits(broken):
    with pytest.raises(AssertionError):
        check_exits_equal_the_reference(sabotaged(broken), TOKENS, 0.3)


@pytest.mark.parametrize("broken", [RowsSeeEachOther, OrderNotRestored])
def test_control_row_alone(broken):
    with pytest.raises(AssertionError):
        check_a_row_alone_equals_the_row_in_a_slice(sabotaged(broken), TOKENS, 0.3)


@pytest.mark.parametrize("broken", [BatchLeavesTogether, LastLayerForgets])
def test_control_answered_once(broken):
    with pytest.raises(AssertionError):
        check_every_row_is_answered_once(sabotaged(broken), TOKENS, 0.3)


def test_rows_leave_at_every_layer():
    """Otherwise the properties above would test less than they say."""
    for family in FAMILIES:
        tokens = random_tokens(np.full(60, 9), seed=2)
        middle = np.median(exit_outputs(engine(family), tokens).uncertainties()[:-1], axis=1)
        assert set(engine(family).classify(tokens, middle).exit_layer) == {1, 2, 3}, family


def test_audited_rows_exit_as_always_and_run_to_the_end():
    tokens = random_tokens(np.arange(2, 22), seed=3)
    thresholds = np.full(LAYERS - 1, 0.6)
    deep = np.arange(len(tokens)) % 3 == 0
    plain = engine("bert").classify(tokens, thresholds)
    audited = engine("bert").classify(tokens, thresholds, deep=deep)
    full = engine("bert").classify(tokens, np.zeros(LAYERS - 1))
    assert np.array_equal(plain.label, audited.label)
    assert np.array_equal(plain.exit_layer, audited.exit_layer)
    assert np.array_equal(audited.deep_label[deep], full.label[deep])
    assert (audited.deep_label[~deep] == -1).all()


def test_rows_with_the_same_tokens_are_computed_once():
    once = random_tokens([7, 3, 12, 7, 9], seed=1, pairs=True)
    again = np.array([0, 3, 1, 0, 2, 2, 4, 1])
    deep = np.array([0, 0, 0, 1, 1, 0, 0, 0], bool)
    thresholds = np.full(LAYERS - 1, 0.6)
    walked = []
    tested = engine("bert")
    real = tested._embedder
    tested._embedder = lambda tokens: walked.append(len(tokens)) or real(tokens)
    found = tested.classify(once.take(again), thresholds, deep)
    assert sum(walked) == len(once)
    expected = engine("bert").classify(once, thresholds, np.ones(5, bool))
    for name in ("label", "score", "exit_layer", "uncertainty"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)[again]), name
    assert np.array_equal(found.deep_label, np.where(deep, expected.deep_label[again], -1))


def test_types_tell_rows_apart():
    tokens = random_tokens([6, 6], seed=1, pairs=True)
    same_ids = Tokens(np.tile(tokens.ids[:6], 2), tokens.offsets, tokens.types)
    assert len(same_ids.distinct()[0]) == 2


def test_a_batch_that_does_not_fit_is_halved_and_the_budget_remembered():
    tokens = random_tokens(np.arange(2, 22), seed=3)
    thresholds = np.full(LAYERS - 1, 0.6)
    small = engine("bert", batch_tokens=10_000)
    tried = []

    def limited(real):
        def layer(hidden, groups):
            tried.append(groups[-1].tokens.stop)
            if tried[-1] > 40:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(hidden, groups)

        return layer

    small.layers = [limited(layer) for layer in small.layers]
    found = small.classify(tokens, thresholds)
    np.testing.assert_allclose(found.score, engine("bert").classify(tokens, thresholds).score)
    assert max(tried) > 40  # control: the limit was hit
    tried.clear()
    small.classify(tokens, thresholds)
    assert max(tried) <= 40


def test_sizes_of_batches_repeat():
    """What oneDNN compiles for each size stays in memory: random sizes made a replica twice as
    large after a million rows."""
    sizes = set()

    def counting(real):
        def layer(hidden, groups):
            sizes.add(len(hidden))
            return real(hidden, groups)

        return layer

    watched = engine("bert", batch_tokens=300, pool_tokens=10_000)
    watched.layers = [counting(layer) for layer in watched.layers]
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(2, 24, 60)
        watched.classify(random_tokens(lengths, seed), np.full(LAYERS - 1, 0.6))
    assert 1 < len(sizes) <= 5


def test_one_row_that_does_not_fit_is_an_error():
    def full(hidden, groups):
        raise torch.OutOfMemoryError("CUDA out of memory")

    broken = engine("bert")
    broken.layers = [full] * LAYERS
    with pytest.raises(torch.OutOfMemoryError):
        broken.classify(TOKENS, np.zeros(LAYERS - 1))


def test_full_depth_is_the_last_of_all_layers():
    tokens = random_tokens([7, 3, 12, 7])
    np.testing.assert_allclose(
        engine("bert").full_depth(tokens), engine("bert").exit_logits(tokens)[-1], atol=1e-6
    )


def test_the_same_slice_twice_is_bit_identical():
    tokens = random_tokens(np.arange(2, 22), seed=3)
    first, second = (engine("bert").classify(tokens, np.full(LAYERS - 1, 0.6)) for _ in range(2))
    assert first.score.tobytes() == second.score.tobytes()


def test_no_rows():
    found = engine("bert").classify(random_tokens([]), np.zeros(LAYERS - 1))
    assert len(found.label) == 0


def test_wrong_number_of_thresholds():
    with pytest.raises(ValueError, match="expected 2"):
        engine("bert").classify(TOKENS, np.zeros(LAYERS))


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_through_the_fast_kernels_equals_the_reference(family):
    """The properties above are checked in float64, which goes other ways through the hardware."""
    found = torch.from_numpy(Engine(tiny_fastbert(family)).exit_logits(TOKENS)).softmax(-1)
    for i in range(len(TOKENS)):
        expected = all_layers(tiny_fastbert(family), TOKENS, i)
        np.testing.assert_allclose(found[:, i], expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_low_precision_agrees_where_answers_are_clear(precision):
    tokens = random_tokens(np.arange(2, 42), seed=3)
    full = Engine(tiny_fastbert()).exit_logits(tokens)[-1]
    half = Engine(tiny_fastbert(), dtype=DTYPES[precision]).exit_logits(tokens)[-1]
    assert not np.array_equal(full, half)  # control: it is another precision
    top = np.sort(full, -1)
    clear = top[:, -1] - top[:, -2] > 0.5
    assert clear.sum() >= 10
    assert np.array_equal(full.argmax(-1)[clear], half.argmax(-1)[clear])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_equals_the_reference(family):
    on_gpu = Engine(tiny_fastbert(family), "cuda", batch_tokens=50, pool_tokens=130)
    found = on_gpu.exit_logits(TOKENS)
    here = engine(family).exit_logits(TOKENS)
    np.testing.assert_allclose(found, here, atol=1e-3)
