"""The engine against the slow reference: for every family, whatever the lengths and batches.

Each property is a function that a correct engine passes; each is also shown to fail for an engine
with the very bug it is there for.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engines import KINDS, at, engine, made, soft
from support.models import FAMILIES, LAYERS, random_tokens, tiny_fastbert
from support.reference import all_exits, answer, gap_threshold, heard

from fastbert.calibration.evaluation import exit_outputs
from fastbert.exits.rules import NO_EXIT, Threshold
from fastbert.inference.decisions import Predictions
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.tokens import Tokens
from fastbert.packed.batching import Batch

LENGTHS = st.lists(st.integers(2, 23), min_size=1, max_size=17)
PROPERTY = settings(max_examples=12, deadline=None, derandomize=True)


def exit_layers(engine: Engine, found: Predictions) -> np.ndarray:
    return np.array([exit.depth for exit in engine.exits])[found.exit]


def row(tokens: Tokens, i: int) -> Tokens:
    span = slice(tokens.offsets[i], tokens.offsets[i + 1])
    types = None if tokens.types is None else tokens.types[span]
    return Tokens(tokens.ids[span], np.array([0, tokens.lengths[i]]), types)


def check_threshold_zero_is_the_full_model(engine: Engine, tokens: Tokens) -> None:
    found = engine.classify(tokens, at(0, engine))
    assert (exit_layers(engine, found) == LAYERS).all()
    for i in range(len(tokens)):
        last = all_exits(engine.model, tokens, i)[-1]
        assert found.answer["label"][i] == last.argmax()
        assert found.answer["score"][i] == pytest.approx(last.max(), abs=1e-5)


def rule_between(
    engine: Engine, tokens: Tokens, share: float, kind: Callable[..., Threshold]
) -> tuple[Threshold, list[np.ndarray]]:
    """A rule of a kind whose threshold lies in a gap, and what the reference hears of each row."""
    temperatures = kind(1, engine).temperatures
    probabilities = [
        heard(all_exits(engine.model, tokens, i), temperatures) for i in range(len(tokens))
    ]
    return kind(gap_threshold(probabilities, share), engine), probabilities


def check_exits_equal_the_reference(
    engine: Engine, tokens: Tokens, share: float, kind: Callable[..., Threshold] = at
) -> None:
    rule, probabilities = rule_between(engine, tokens, share, kind)
    found = engine.classify(tokens, rule)
    for i, p in enumerate(probabilities):
        expected = answer(p, rule.thresholds)
        assert found.exit[i] == expected.exit
        assert found.answer["label"][i] == expected.label
        assert found.answer["score"][i] == pytest.approx(expected.score, abs=1e-5)
        assert found.uncertainty[i] == pytest.approx(expected.uncertainty, abs=1e-5)


def check_a_row_alone_equals_the_row_in_a_slice(
    engine: Engine, tokens: Tokens, share: float, kind: Callable[..., Threshold] = at
) -> None:
    rule, _ = rule_between(engine, tokens, share, kind)
    together = engine.classify(tokens, rule)
    for i in range(len(tokens)):
        alone = Engine(engine.model, dtype=torch.float64).classify(row(tokens, i), rule)
        assert together.answer["label"][i] == alone.answer["label"][0]
        assert together.exit[i] == alone.exit[0]
        assert together.answer["score"][i] == pytest.approx(alone.answer["score"][0], abs=1e-5)


def check_every_row_is_answered_once(engine: Engine, tokens: Tokens, share: float) -> None:
    """Counts the answers that leave the network, instead of trusting the result arrays."""
    uncertainties = exit_outputs(Engine(engine.model, dtype=torch.float64), tokens).uncertainties
    rule = at(np.quantile(uncertainties, share), engine)
    answered = np.zeros(len(tokens), int)
    real_run = engine._run

    def counting_run(tokens, decide, *options):
        def counting_decide(exit, rows, logits):
            later = decide(exit, rows, logits)

            def counted():
                stays = later()
                answered[rows[~stays]] += 1
                if exit == len(engine.exits) - 1:
                    answered[rows[stays]] += 1
                return stays

            return counted

        real_run(tokens, counting_decide, *options)

    engine._run = counting_run
    found = engine.classify(tokens, rule)
    assert (answered == 1).all()
    assert (found.exit != NO_EXIT).all()


@pytest.mark.parametrize("kind", KINDS)
@PROPERTY
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_threshold_zero_is_the_full_model(kind, lengths, seed):
    tokens = random_tokens(lengths, seed, special=True)
    check_threshold_zero_is_the_full_model(engine(kind), tokens)


@pytest.mark.parametrize("kind", KINDS)
@PROPERTY
@given(
    lengths=LENGTHS,
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    pairs=st.booleans(),
    rule=st.sampled_from([at, soft]),
)
def test_exits_equal_the_reference(kind, lengths, seed, share, pairs, rule):
    pairs = pairs and kind != "bag"
    tokens = random_tokens(lengths, seed, pairs, special=True)
    check_exits_equal_the_reference(engine(kind), tokens, share, rule)


@pytest.mark.parametrize("kind", KINDS)
@PROPERTY
@given(
    lengths=LENGTHS,
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    rule=st.sampled_from([at, soft]),
)
def test_a_row_alone_equals_the_row_in_a_slice(kind, lengths, seed, share, rule):
    tokens = random_tokens(lengths, seed, special=True)
    check_a_row_alone_equals_the_row_in_a_slice(engine(kind), tokens, share, rule)


@pytest.mark.parametrize("kind", KINDS)
@PROPERTY
@given(lengths=LENGTHS, seed=st.integers(0, 99), share=st.floats(0, 1))
def test_every_row_is_answered_once(kind, lengths, seed, share):
    check_every_row_is_answered_once(engine(kind), random_tokens(lengths, seed), share)


# Negative controls: engines with the bugs that early-exit code is known for.


class RowsSeeEachOther(Engine):
    """Attention goes over all that lies in a batch, whosever token it is."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options | {"batch_tokens": 10_000})
        real = self.encoder.layer
        self.encoder.layer = lambda k, x, batch: real(k, x, Batch(np.array([len(x)])))


class PositionsOfPadding(Engine):
    """Every token has a position, whatever it is."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        encoder = self.encoder
        first = 0 if encoder.padding is None else encoder.padding + 1
        encoder._positions = lambda ids, batch: first + batch.places


class OrderNotRestored(Engine):
    """Answers stay in length order."""

    def _run(self, tokens, decide, *options):
        order = np.argsort(-tokens.lengths, kind="stable")
        place = np.argsort(order)
        super()._run(tokens, lambda e, rows, p: decide(e, place[rows], p), *options)


class BatchLeavesTogether(Engine):
    """The whole batch waits for its slowest row: exits are one number per batch."""

    def _run(self, tokens, decide, *options):
        def wait(exit, rows, logits):
            later = decide(exit, rows, logits)
            return lambda: np.full(len(rows), later().any())

        super()._run(tokens, wait, *options)


class LastExitForgets(Engine):
    """Rows that are never sure get no answer."""

    def _run(self, tokens, decide, *options):
        def forget(exit, rows, logits):
            last = exit == len(self.exits) - 1
            return (lambda: np.zeros(len(rows), bool)) if last else decide(exit, rows, logits)

        super()._run(tokens, forget, *options)


class SurvivorsMixedUp(Engine):
    """After the first layer survivors carry each other's hidden states."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        real = self.encoder.layer
        self.encoder.layer = lambda k, x, batch: real(k, x.flip(0) if k == 2 else x, batch)


class PairsSpanRows(Engine):
    """The last token of a row and the first of the next are taken for a pair."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for bag in self.bags.values():
            real = bag.lookup
            bag._found = lambda ids, starts, real=real: real(ids, starts[:1])
            bag._found.places = real.places


class ForgetsWhatWasSaid(Engine):
    """Each exit is asked as if it were the first."""

    def classify(self, tokens, rule, *options):
        return super().classify(tokens, OneByOne(**vars(rule)), *options)


class OneByOne(Threshold):
    def heard(self, exit, logits, before, soften):
        return super().heard(exit, logits, None, soften)


def sabotaged(kind: type[Engine], model: str = "bert") -> Engine:
    return made(kind, model, batch_tokens=50)


TOKENS = random_tokens([5, 9, 2, 17, 9, 11, 4, 9, 20, 3], seed=4)


@pytest.mark.parametrize("broken", [RowsSeeEachOther, OrderNotRestored, LastExitForgets])
def test_control_threshold_zero(broken):
    with pytest.raises(AssertionError):
        check_threshold_zero_is_the_full_model(sabotaged(broken), TOKENS)


@pytest.mark.parametrize("broken", [RowsSeeEachOther, OrderNotRestored, SurvivorsMixedUp])
def test_control_exits(broken):
    with pytest.raises(AssertionError):
        check_exits_equal_the_reference(sabotaged(broken), TOKENS, 0.3)


@pytest.mark.parametrize("broken", [PairsSpanRows, ForgetsWhatWasSaid])
def test_control_first_exit_and_memory(broken):
    with pytest.raises(AssertionError):
        check_exits_equal_the_reference(sabotaged(broken, "bag"), TOKENS, 0.3, soft)


def test_control_positions_of_padding():
    tokens = random_tokens([9, 12, 7], special=True)
    with pytest.raises(AssertionError):
        check_threshold_zero_is_the_full_model(made(PositionsOfPadding, "roberta"), tokens)


@pytest.mark.parametrize("broken", [RowsSeeEachOther, OrderNotRestored])
def test_control_row_alone(broken):
    with pytest.raises(AssertionError):
        check_a_row_alone_equals_the_row_in_a_slice(sabotaged(broken), TOKENS, 0.3)


@pytest.mark.parametrize("broken", [BatchLeavesTogether, LastExitForgets])
def test_control_answered_once(broken):
    with pytest.raises(AssertionError):
        check_every_row_is_answered_once(sabotaged(broken), TOKENS, 0.3)


def test_rows_leave_at_every_exit():
    """Otherwise the properties above would test less than they say."""
    for kind in KINDS:
        tokens = random_tokens(np.full(60, 9), seed=2)
        middle = np.median(exit_outputs(engine(kind), tokens).uncertainties[:-1], axis=1)
        found = engine(kind).classify(tokens, Threshold.of(middle))
        assert {*found.exit} == {*range(len(engine(kind).exits))}, kind


def test_audited_rows_exit_as_always_and_run_to_the_end():
    tokens = random_tokens(np.arange(2, 22), seed=3)
    tested = engine("scattered")
    deep = np.arange(len(tokens)) % 3 == 0
    plain = tested.classify(tokens, at(0.6, tested))
    audited = tested.classify(tokens, at(0.6, tested), deep=deep)
    full = tested.classify(tokens, at(0, tested))
    assert np.array_equal(plain.answer["label"], audited.answer["label"])
    assert np.array_equal(plain.exit, audited.exit)
    assert np.array_equal(audited.deep["label"][deep], full.answer["label"][deep])
    assert np.array_equal(audited.audited, deep)


def test_rows_with_the_same_tokens_are_computed_once():
    once = random_tokens([7, 3, 12, 7, 9], seed=1, pairs=True)
    again = np.array([0, 3, 1, 0, 2, 2, 4, 1])
    deep = np.array([0, 0, 0, 1, 1, 0, 0, 0], bool)
    embedded = []
    tested = engine("bert")
    real = tested.encoder.embed

    def counting(ids, types, batch):
        embedded.append(batch.rows)
        return real(ids, types, batch)

    tested.encoder.embed = counting
    found = tested.classify(once.take(again), at(0.6, tested), deep)
    assert sum(embedded) == len(once)
    expected = engine("bert").classify(once, at(0.6, tested), np.ones(5, bool))
    for name in ("answer", "exit", "uncertainty"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)[again]), name
    assert np.array_equal(found.deep["label"][deep], expected.deep["label"][again][deep])
    assert np.array_equal(found.audited, deep)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_heard_on_the_way_is_what_was_done(kind):
    tokens, tested = random_tokens(np.full(40, 9), seed=6), engine(kind)
    for threshold in (0, 0.6):
        told = []
        tested.classify(tokens, at(threshold, tested), advance=told.append)
        assert sorted(told) == told and told[-1] == 1.0  # noqa: PT018
        assert len({*told}) >= 8 * (1 if threshold else tested.encoder.depth)  # by five rows


@pytest.mark.parametrize("precision", DTYPES)
def test_the_callers_model_stays_as_it_is(precision):
    mine = tiny_fastbert().train()
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    Engine(mine, dtype=DTYPES[precision]).classify(TOKENS, Threshold.of(np.full(LAYERS - 1, 0.5)))
    assert mine.training
    assert all(p.requires_grad for p in mine.parameters())
    for name, tensor in mine.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name]), name


def test_full_depth_is_the_last_of_all_exits():
    tokens = random_tokens([7, 3, 12, 7])
    np.testing.assert_allclose(
        engine("bert").full_depth(tokens), engine("bert").exit_logits(tokens)[-1], atol=1e-6
    )


def test_the_same_slice_twice_is_bit_identical():
    tokens = random_tokens(np.arange(2, 22), seed=3)
    rule = at(0.6, engine("bert"))
    first, second = (engine("bert").classify(tokens, rule) for _ in range(2))
    assert first.answer.tobytes() == second.answer.tobytes()


def test_no_rows():
    found = engine("bert").classify(random_tokens([]), at(0, engine("bert")))
    assert len(found.answer) == 0


def test_wrong_number_of_thresholds():
    with pytest.raises(ValueError, match="a rule for 4 exits; the model has 3"):
        engine("bert").classify(TOKENS, Threshold.of(np.zeros(LAYERS)))


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_through_the_fast_kernels_equals_the_reference(family):
    """The properties above are checked in float64, which goes other ways through the hardware."""
    found = torch.from_numpy(Engine(tiny_fastbert(family)).exit_logits(TOKENS)).softmax(-1)
    for i in range(len(TOKENS)):
        expected = all_exits(tiny_fastbert(family), TOKENS, i)
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
