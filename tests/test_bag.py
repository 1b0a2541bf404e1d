"""The exit before the first layer: what it computes, learns, costs, and how checkpoints get it."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.jobs import invoke, refused
from support.models import VOCABULARY, random_tokens, save_tiny_models, tiny_fastbert, with_bag
from support.reference import bag_logits
from support.shards import random_texts, write_shard

from fastbert.calibration.evaluation import exit_outputs
from fastbert.checkpoint import fingerprint, store_operating_point
from fastbert.errors import InputError
from fastbert.exits.bag import Bag, storable
from fastbert.exits.exit import Exit, chosen, exits_of
from fastbert.exits.operating_point import OperatingPoint
from fastbert.exits.question import Question
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.tokens import Tokens
from fastbert.library import load
from fastbert.tasks.questions import Questions
from fastbert.training.bag import occurring, teach_bag
from fastbert.weights import load_model

ASKED = Questions([Question()], ["a", "b", "c"])
TOKENS = random_tokens([5, 2, 9, 31, 4], seed=3)


def bag_of(tokens: Tokens, classes: int = 3, vocabulary: int = VOCABULARY) -> Bag:
    known, pairs = occurring(tokens, vocabulary)
    bag = Bag(vocabulary, len(known), len(pairs), 6, 5, classes)
    bag.tokens.copy_(known)
    bag.pairs.copy_(pairs)
    return bag


def answers(bag: Bag, tokens: Tokens) -> torch.Tensor:
    starts = torch.from_numpy(tokens.offsets[:-1]).int()
    return bag.answer(torch.from_numpy(tokens.ids), starts).detach()


def test_packed_rows_and_padded_ones_are_the_slow_reference():
    bag = with_bag(tiny_fastbert()).heads[0]
    rows = np.split(TOKENS.ids, TOKENS.offsets[1:-1])
    known = set(map(tuple, bag.pairs.tolist()))
    assert any(pair in known for row in rows for pair in pairwise(row.tolist()))
    expected = torch.stack([bag_logits(bag, row.tolist()) for row in rows])
    torch.testing.assert_close(answers(bag, TOKENS), expected.detach(), atol=1e-5, rtol=1e-5)
    ids, mask = torch.zeros(5, 31, dtype=torch.long), torch.zeros(5, 31, dtype=torch.bool)
    for k, row in enumerate(rows):
        ids[k, : len(row)], mask[k, : len(row)] = torch.from_numpy(row), True
    torch.testing.assert_close(bag(ids, mask), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(bag(ids[3:4]), bag(ids[3:4], mask[3:4]))


def test_a_hash_table_holds_what_is_storable():
    """Of pairs in one place the first one stays; all that stay are found, and no other."""
    generator = np.random.default_rng(0)
    pairs = np.unique(generator.integers(0, 300_000, (20_000, 2)), axis=0).astype(np.int32)
    generator.shuffle(pairs)
    kept = storable(pairs)
    assert 0.8 * len(pairs) < len(kept) < len(pairs)
    assert np.array_equal(storable(kept), kept)
    assert (kept[:50] == pairs[:50]).all(1).any()
    bag = Bag(300_000, 0, len(kept), 2, 2, 2)
    bag.pairs.copy_(torch.from_numpy(kept))
    asked = np.concatenate([kept, generator.integers(0, 300_000, (20_000, 2)).astype(np.int32)])
    starts = torch.arange(0, 2 * len(asked), 2, dtype=torch.int32)
    _, found = bag.lookup(torch.from_numpy(asked.ravel()), starts)
    found = found.view(-1, 2).numpy()
    assert (found[:, 1] == 0).all()  # a pair does not begin at a row's end
    assert np.array_equal(found[: len(kept), 0], 1 + np.arange(len(kept)))
    assert np.isin(asked[len(kept) :][found[len(kept) :, 0] > 0], kept).all()


def test_what_occurs_is_known():
    """Every token, and pairs within rows that are frequent."""
    rows = [[3, 4, 5]] * 12 + [[5, 3]] * 9
    tokens = Tokens(
        np.array([each for row in rows for each in row], np.int32),
        np.cumsum([0, *map(len, rows)]).astype(np.int64),
    )
    known, pairs = occurring(tokens, VOCABULARY)
    assert known.tolist() == [3, 4, 5]
    assert sorted(pairs.tolist()) == [[3, 4], [4, 5]]  # [5, 3] is there 9 times, and across rows


def test_it_learns_the_teachers_answers_by_words_and_pairs():
    """Class 1 has token 7; class 2 has 8 before 9, which class 0 has in the other order."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 900)
    rows = [[2, *generator.integers(10, 60, 5), *said, 3]
            for said in ([[9, 8], [7], [8, 9]][label] for label in labels)]  # fmt: skip
    tokens = Tokens(
        np.concatenate(rows).astype(np.int32), np.cumsum([0, *map(len, rows)]).astype(np.int64)
    )
    wanted = torch.from_numpy(4 * np.eye(3, dtype=np.float32)[labels])
    bag, words = bag_of(tokens.take(np.arange(600))), torch.randn(VOCABULARY, 11)
    teach_bag(bag, ASKED, words, tokens.take(np.arange(600)), wanted[:600], seed=5)
    found = answers(bag, tokens.take(np.arange(600, 900))).argmax(-1).numpy()
    assert (found == labels[600:]).mean() > 0.97
    assert not bag.numbers.weight[0].any()  # that of unknown tokens
    again = bag_of(tokens.take(np.arange(600)))
    teach_bag(again, ASKED, words, tokens.take(np.arange(600)), wanted[:600], seed=5)
    assert torch.equal(again.numbers.weight, bag.numbers.weight)


def test_a_narrow_backbone_and_one_row_are_enough():
    tokens = random_tokens([4], seed=1)
    bag = bag_of(tokens)
    teach_bag(bag, ASKED, torch.randn(VOCABULARY, 2), tokens, torch.randn(1, 3))
    assert answers(bag, tokens).isfinite().all()


def test_flops_are_those_of_the_sums_and_the_head():
    model = with_bag(tiny_fastbert())
    bag, lengths = model.heads[0], np.array([1, 7])
    numbers, hidden, classes = 64, 64, model.task.numbers
    expected = 2 * (2 * lengths - 1) * numbers + 2 * (numbers * hidden + hidden * classes)
    assert bag.flops(lengths).tolist() == expected.tolist()
    bag.pairs = bag.pairs[:0]
    expected = 2 * lengths * numbers + 2 * (numbers * hidden + hidden * classes)
    assert bag.flops(lengths).tolist() == expected.tolist()


def test_a_row_that_leaves_there_costs_nothing_else():
    """ELECTRA's embeddings are a linear map that others do not have."""
    model, lengths = with_bag(tiny_fastbert("electra")), np.array([3, 11])
    cost, bag = CostModel(model), model.heads[0].flops(lengths)

    def flops(leaves: int, *used: int) -> list[int]:
        return cost.using(np.array(used)).row_flops(lengths, np.full(2, leaves)).tolist()

    assert flops(0, 0, 1, 2, 3) == flops(0, 0) == bag.tolist()
    assert np.array_equal(np.subtract(flops(1, 0, 1), flops(1, 1)), bag)
    assert flops(3, 3) == cost.full_flops(lengths).tolist()


def test_rows_that_leave_there_need_nothing_of_the_encoder():
    model = with_bag(tiny_fastbert())
    engine = Engine(model)
    engine.encoder.embed = None
    point = OperatingPoint.of_speed(1.0, model.config, "0")
    assert not engine.classify(TOKENS, point.rule()).exit.any()


def test_full_depth_is_what_it_is_without_the_exit():
    tokens = random_tokens(np.arange(2, 30))
    plain, more = tiny_fastbert(), with_bag(tiny_fastbert())
    found, expected = exit_outputs(Engine(more), tokens), exit_outputs(Engine(plain), tokens)
    assert np.array_equal(found.logits[1:], expected.logits)
    speeds = [OperatingPoint.of_speed(0.6, each.config) for each in (plain, more)]
    assert np.array_equal(
        *(
            Engine(each).classify(tokens, speed.rule()).answer
            for each, speed in zip((plain, more), speeds, strict=True)
        )
    )


def test_exits_are_chosen_by_depth():
    exits = [Exit(0, "bag"), Exit(1), Exit(2), Exit(2), Exit(3)]
    assert chosen("0-", exits) == [True] * 5
    assert chosen("1-", exits) == [False, True, True, True, True]
    assert chosen("0,2", exits) == [True, False, True, True, True]
    assert chosen(" 1 , 3 ", exits) == [False, True, False, False, True]
    assert chosen("1-2", exits) == [False, True, True, True, True]
    for wrong in ("", "x", "4", "1-x", "2-1", "-1", "1,,2"):
        with pytest.raises(InputError, match=r"--exits is .*, expected depths .* of 0, 1, 2, 3"):
            chosen(wrong, exits)
    with pytest.raises(InputError, match="a bag after a layer"):
        exits_of([{"depth": 1, "head": "bag"}, {"depth": 3}], 3, None)


@pytest.fixture
def place(tmp_path):
    """A checkpoint without the exit, with a point, and a corpus."""
    save_tiny_models(tmp_path)
    write_shard(tmp_path / "in" / "a.parquet", random_texts(900, seed=2))
    evidence = {"rows": 9, "broken": 0, "bound": 0.2, "exits": [4, 3, 2], "flops_speedup": 1.5,
                "corpus": "x", "precision": "fp32", "date": "2026-01-01"}  # fmt: skip
    point = {"thresholds": [0.7, 0.8], "criterion": "margin", "evidence": evidence}
    store_operating_point(str(tmp_path / "model"), "old", point)
    return tmp_path


def add_bag(place, *options: object):
    return invoke(
        *("distill", "--add-bag", "--teacher", place / "model", "--corpus", place / "in", *options)
    )


@pytest.mark.parametrize("in_place", [False, True])
def test_a_checkpoint_gets_the_exit_and_answers_at_its_points_as_before(place, in_place):
    texts = random_texts(50, seed=9)
    before, was = load(place / "model").label(texts), fingerprint(place / "model")
    output = place / ("model" if in_place else "more")
    result = add_bag(place, *(["--in-place"] if in_place else ["--output", output]))
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["output"], summary["rows"]) == (str(output), 810)
    assert len(summary["agreement_by_layer"]) == 4
    model = load_model(output)
    assert [each.depth for each in model.exits] == [0, 1, 2, 3]
    assert load(output).label(texts) == before
    point = OperatingPoint.of_checkpoint(model.config, None)
    assert (point.name, point.thresholds, point.exit_depths) == ("old", [0, 0.7, 0.8], [0, 1, 2, 3])
    assert point.evidence.exits == [0, 4, 3, 2]
    assert fingerprint(output) != was
    assert (fingerprint(place / "model") == was) != in_place


def test_a_new_exit_takes_the_place_of_an_old_one(place, caplog):
    """A point that used the old one is gone; the others stay."""
    assert add_bag(place, "--in-place").exit_code == 0
    calibrated = invoke("calibrate", "--model", place / "model", "--corpus", place / "in",
                        "--speedup", 1.5, "--exits", "0")  # fmt: skip
    assert calibrated.exit_code == 0, calibrated.output
    assert json.loads(calibrated.stdout)["operating_point"]["thresholds"][1:] == [0, 0]
    assert add_bag(place, "--in-place", "--seed", 4).exit_code == 0
    assert "'speedup-1.5' used the former exit, and is removed" in caplog.text
    config = load_model(place / "model").config
    assert [*config.operating_points] == ["old"]
    assert config.default_operating_point is None
    assert len(config.exit_list) == 4


def test_what_makes_no_sense_is_refused(place):
    refused(add_bag(place), "--output", "--in-place")
    refused(add_bag(place, "--in-place", "--output", place / "x"), "--output", "--in-place")
    refused(add_bag(place, "--in-place", "--max-length", 9), "--add-bag does not go with --max-le")
    refused(add_bag(place, "--in-place", "--no-bag"), "--add-bag does not go with --no-bag")
    teacher = ("distill", "--teacher", place / "teacher", "--corpus", place / "in")
    refused(invoke(*teacher, "--in-place"), "--in-place goes with --add-bag")
    refused(invoke(*teacher, "--add-bag", "--output", place / "x"), "expected 'fastbert'")
