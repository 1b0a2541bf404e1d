"""Numbers that are none: in training, in what exits say, and in what is proven of it."""

import numpy as np
import pytest
import torch
from support.jobs import invoke
from support.jobs import refused as refused_by_command
from support.models import CLASSES, LAYERS, random_tokens, tiny_fastbert, tiny_tokenizer
from support.shards import random_texts, write_shard

from fastbert.calibration.evaluation import ExitOutputs, exit_outputs, outcome
from fastbert.calibration.points import promised_point, sample_of
from fastbert.calibration.promises import breaking_steps, make_path
from fastbert.errors import FastBertError, InputError
from fastbert.exits.operating_point import Promise
from fastbert.exits.rules import Threshold, replay
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.tasks.single_label import SingleLabel
from fastbert.training.examples import Examples
from fastbert.training.recipes import Recipe
from fastbert.training.trainer import finetune, self_distil
from pipelines.checkpoints.settings import TrainSettings
from pipelines.checkpoints.train import train

#: A token that no row has by chance, and that nothing can be said of.
POISON = 7


def poisoned(rows: int, odd: int) -> tuple[Engine, object]:
    """An engine, and rows of which some are odd."""
    model = tiny_fastbert()
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight[POISON] = torch.nan
    tokens = random_tokens(np.arange(rows) % 11 + 2)
    tokens.ids[tokens.ids == POISON] = POISON + 1
    tokens.ids[tokens.offsets[:odd]] = POISON
    return Engine(model), tokens


def outputs_with_gaps(rows: int, share: float, seed: int = 0) -> ExitOutputs:
    """Random answers; a share of them is not a number."""
    rng = np.random.default_rng(seed)
    logits = 4 * rng.normal(size=(LAYERS, rows, CLASSES)).astype(np.float32)
    logits[rng.random((LAYERS, rows)) < share] = np.nan
    return ExitOutputs(logits, rng.integers(3, 30, rows), SingleLabel(list("abcde")))


def examples() -> Examples:
    texts = random_texts(24, seed=1, longest=6)
    return Examples(texts, labels=[int("bread" in text) for text in texts])


@pytest.mark.parametrize(
    ("epochs", "where"), [(4, r"loss is (nan|inf) at step \d+ of 12"), (0.3, "after the last step")]
)
def test_training_that_diverges_says_where(epochs, where, tmp_path):
    recipe = Recipe(epochs=epochs, learning_rate=1e30, batch_size=8, warmup=0)
    with pytest.raises(FastBertError, match=f"in fine-tune, .*{where}.*--learning-rate") as raised:
        finetune(tiny_fastbert(), tiny_tokenizer(tmp_path), examples(), recipe=recipe)
    assert raised.value.exit_code == 1


def test_training_that_ends_far_from_its_labels_has_diverged(tmp_path):
    rows = Examples(["a river"] * 24, labels=[k % CLASSES for k in range(24)])
    recipe = Recipe(epochs=4, learning_rate=10, batch_size=8, warmup=0)
    with pytest.raises(FastBertError, match=r"in fine-tune, .* where guessing gives 1\.61"):
        finetune(tiny_fastbert(), tiny_tokenizer(tmp_path), rows, recipe=recipe)


NUMBERS = {
    "train": [("epochs", "inf"), ("learning-rate", "inf"), ("distil-epochs", "inf"), ("seed", -1),
              ("seed", 2**32), ("temperature", 1e300), ("temperature", 1e-30)],
    "calibrate": [("seed", -1), ("max-disagreement", 1e-300), ("promise-rows", 10**18)],
    "evaluate": [("speeds", 2), ("speeds", "nan"), ("speeds", -1)],
}  # fmt: skip
GIVEN = {
    "train": ["--train", "x", "--output", "y"],
    "calibrate": ["--model", "x", "--corpus", "y"],
    "evaluate": ["--model", "x", "--data", "y", "--speeds", 0.5],
}


@pytest.mark.parametrize(
    ("job", "option", "value"), [(job, *each) for job in NUMBERS for each in NUMBERS[job]]
)
def test_numbers_that_no_command_can_work_with(job, option, value):
    result = invoke(job, *GIVEN[job], f"--{option}", value)
    refused_by_command(result, f"--{option} is", "expected")


def test_students_of_a_broken_teacher_say_so(tmp_path):
    model = tiny_fastbert()
    with torch.no_grad():
        next(model.branches[-1].parameters()).fill_(torch.nan)
    recipe = Recipe(epochs=1, learning_rate=1e-3, batch_size=8)
    with pytest.raises(FastBertError, match="in self-distil, the loss is nan at step 1 of 3"):
        self_distil(model, tiny_tokenizer(tmp_path), examples(), recipe)


def test_nothing_is_saved_of_training_that_diverges(tmp_path):
    tiny_fastbert().backbone.save_pretrained(tmp_path / "backbone")
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path / "backbone")
    write_shard(tmp_path / "a.parquet", random_texts(24), label=["x", "y", "z"] * 8)
    output = tmp_path / "model"
    asked = TrainSettings(
        train=(str(tmp_path / "a.parquet"),),
        backbone=str(tmp_path / "backbone"),
        output=str(output),
        learning_rate=1e30,
        batch_size=8,
        epochs=1,
        max_length=16,
    )
    with pytest.raises(FastBertError, match="nothing was saved"):
        train(asked)
    assert not output.exists()


@pytest.mark.parametrize(
    ("rows", "odd", "refused"),
    [(50, 0, 0), (50, 1, 0), (50, 2, 1), (300, 3, 0), (300, 4, 1), (1, 1, 1)],
)
def test_more_than_odd_rows_speak_against_the_model(rows, odd, refused, caplog):
    engine, tokens = poisoned(rows, odd)
    if refused:
        with pytest.raises(InputError, match=f"answers for {odd} of {rows} rows are not numbers"):
            exit_outputs(engine, tokens)
    else:
        exit_outputs(engine, tokens)
        assert (f"for {odd} of {rows} rows are not" in caplog.text) == bool(odd)


def test_an_odd_row_agrees_with_nothing_and_leaves_last():
    engine, tokens = poisoned(50, 1)
    outputs, cost = exit_outputs(engine, tokens), CostModel(tiny_fastbert())
    for threshold in (0.0, 2.0):
        rule = Threshold.of(np.full(LAYERS - 1, threshold))
        truth = outputs.answers["label"][-1]  # even if it is the class that stands there by chance
        found = outcome(outputs, cost, rule, truth)
        assert (
            found.exits
            == np.bincount(engine.classify(tokens, rule).exit, minlength=LAYERS).tolist()
        )
        assert found.exits[-1] == (1 if threshold else 50)
        if not threshold:
            assert found.quality["accuracy"] == found.agreement == pytest.approx(49 / 50)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("criterion", ["entropy", "tempered-entropy"])
def test_a_row_breaks_where_the_engine_would_change_it(share, criterion):
    """Or, where full depth has no answer, at once."""
    outputs = outputs_with_gaps(40, share)
    sample = sample_of(outputs, None, CostModel(tiny_fastbert()), [], "fp32")
    path = make_path(sample, criterion, np.ones(LAYERS, bool), sample)
    assert np.isfinite(path.levels).all()
    outputs, rows = path.heard(sample).outputs, np.arange(40)
    uncertainties = outputs.uncertainties
    nothing = ~np.isfinite(uncertainties[-1])
    expected = np.full(40, len(path))
    for step in reversed(range(len(path))):
        exits = replay(path.rule(step), outputs.answers, uncertainties)
        early, last = outputs.answers["label"][exits, rows], outputs.answers["label"][-1]
        changed = (exits < LAYERS - 1) & (early != last)
        expected[changed | (nothing & (step > 0))] = step
    assert breaking_steps(sample, path).tolist() == expected.tolist()


@pytest.mark.parametrize("harm", ["disagreement", "accuracy-loss"])
def test_a_proof_counts_every_row_without_an_answer(harm):
    outputs = outputs_with_gaps(400, 0.02)
    outputs.logits[:-1] = np.nan_to_num(outputs.logits[-1])  # else all exits say the same
    truth = outputs.answers["label"][-1].astype(np.int64) if harm == "accuracy-loss" else None
    sample = sample_of(outputs, truth, CostModel(tiny_fastbert()), [], "fp32")
    nothing = int((~np.isfinite(outputs.uncertainties[-1])).sum())
    point = promised_point(sample, Promise(0.5, 0.95, None, harm), "entropy")
    assert point.evidence is not None
    assert point.evidence.broken == nothing > 3


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_few_rows_prove_nothing_in_one_line(rows, share):
    sample = sample_of(outputs_with_gaps(rows, share), None, CostModel(tiny_fastbert()), [], "fp32")
    for criterion, shape in (("entropy", "uniform"), ("entropy", "per-layer"), ("auto", "auto")):
        with pytest.raises(InputError, match="rows with a text are too few to prove"):
            promised_point(sample, Promise(0.01, 0.95), criterion, shape)
