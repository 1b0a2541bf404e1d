"""Training: what moves, what stays, and the loss against the formula."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.models import LAYERS, tiny_fastbert, tiny_tokenizer
from support.shards import random_texts

from fastbert.tasks.single_label import NO_LABEL, SingleLabel
from fastbert.training.examples import Examples
from fastbert.training.length import fitting_length
from fastbert.training.losses import distillation_loss
from fastbert.training.recipes import Recipe, distilling, finetuning
from fastbert.training.trainer import finetune, self_distil

TASK = SingleLabel(["a", "b", "c", "d"])
FAST = Recipe(epochs=20, learning_rate=3e-3, batch_size=8)


def examples() -> Examples:
    """The class is whether a text speaks of bread."""
    texts = random_texts(48, seed=1, longest=6)
    return Examples(texts, labels=[int("bread" in text) for text in texts])


def test_distillation_loss_is_equation_6():
    logits = torch.randn(3, 2, 4, dtype=torch.float64)
    p = logits.softmax(-1).tolist()
    total = 0.0
    for student in range(2):
        for row in range(2):
            pairs = zip(p[-1][row], p[student][row], strict=True)
            total += sum(teacher * math.log(teacher / own) for teacher, own in pairs) / 2
    assert distillation_loss(TASK, logits[:-1], logits[-1]).item() == pytest.approx(
        total, abs=1e-12
    )


def test_temperature_and_labels_by_hand():
    logits = torch.randn(3, 2, 4, dtype=torch.float64)
    labels = torch.tensor([3, NO_LABEL])
    total = 0.0
    for student in range(2):
        for row in range(2):
            soft = (logits[:, row] / 2.5).softmax(-1).tolist()
            pairs = zip(soft[-1], soft[student], strict=True)
            loss = 2.5**2 * sum(p * math.log(p / own) for p, own in pairs)
            if labels[row] != NO_LABEL:
                own = logits[student, row].softmax(-1)[labels[row]].item()
                loss = 0.7 * loss - 0.3 * math.log(own)
            total += loss / 2
    found = distillation_loss(
        TASK, logits[:-1], logits[-1], labels, temperature=2.5, hard_labels=0.3
    )
    assert found.item() == pytest.approx(total, abs=1e-12)


def test_joint_fine_tuning_teaches_every_layer(tmp_path):
    """To the end: with dev rows, the weights are kept with which the last layer is best, be the
    others as they may."""
    tokenizer, data = tiny_tokenizer(tmp_path), examples()
    batch = tokenizer(data.texts, padding=True, return_tensors="pt")
    right = {}
    for joint in (True, False):
        model = tiny_fastbert(labels=2)
        finetune(model, tokenizer, data, recipe=replace(FAST, epochs=40, joint=joint))
        answers = model(**batch, all_exits=True).exit_logits.argmax(-1)
        right[joint] = (answers == torch.tensor(data.labels)).float().mean(-1)
    assert (right[True] > 0.9).all()
    assert right[False][-1] > 0.9
    untaught = right[False][:-1].mean()  # control
    assert untaught < right[True][:-1].mean() - 0.2


def test_with_dev_rows_the_best_weights_are_kept(tmp_path):
    model, tokenizer = tiny_fastbert(labels=2), tiny_tokenizer(tmp_path)
    data = examples()
    finetune(model, tokenizer, data, dev=data, recipe=FAST)
    batch = tokenizer(data.texts, padding=True, return_tensors="pt")
    right = model(**batch).logits.argmax(-1) == torch.tensor(data.labels)
    assert right.float().mean() > 0.9


def test_training_ends_where_held_out_rows_gain_no_more(tmp_path, caplog):
    """Labels without meaning are memorised, and do not help other rows."""
    caplog.set_level("INFO")
    noise = np.random.default_rng(5).integers(2, size=96).tolist()
    rows = Examples(random_texts(96, seed=3, longest=6), labels=noise)
    train, dev = rows.take(range(48)), rows.take(range(48, 96))
    tokenizer, recipe = tiny_tokenizer(tmp_path), replace(FAST, epochs=40)
    learnt = finetune(tiny_fastbert(labels=2), tokenizer, train, dev, recipe=recipe)
    assert learnt.steps < learnt.planned == 240
    assert not learnt.falling
    # Control: what can be learnt, to the last step, after which comes a look.
    data, recipe = examples(), replace(FAST, epochs=3, learning_rate=1e-4)
    learnt = finetune(tiny_fastbert(labels=2), tokenizer, data, data, recipe=recipe)
    assert learnt.steps == learnt.planned == 18
    assert "step 18 of 18  held-out loss" in caplog.text


def test_the_length_holds_most_texts_whole(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    short, long = ["red"] * 94, ["red " * 100]
    assert fitting_length(tokenizer, Examples(short), 512) == (64, 1.0)
    assert fitting_length(tokenizer, Examples(short + long * 6), 512) == (128, 1.0)
    length, share = fitting_length(tokenizer, Examples(short * 2 + long * 7), 512)
    assert (length, share) == (64, pytest.approx(188 / 195))
    assert fitting_length(tokenizer, Examples(short + long * 6), 90) == (90, 0.94)
    assert fitting_length(tokenizer, Examples(short), 40) == (40, 1.0)
    assert fitting_length(tokenizer, Examples(short), 512, 100) == (128, 1.0)
    assert fitting_length(tokenizer, Examples(short), 512, 512) == (512, 1.0)
    pairs = Examples(["red " * 40] * 5, ["red " * 40] * 5)
    assert fitting_length(tokenizer, pairs, 512)[0] == 128


def test_recipes_follow_data_and_backbone():
    read = {n: finetuning(n, 4, 384).epochs * n for n in (100, 1_000, 10_000, 100_000)}
    assert list(read.values()) == sorted(read.values())
    assert finetuning(100_000, 4, 384).epochs == 1
    assert finetuning(10_000, 77, 384).epochs > 2 * finetuning(10_000, 2, 384).epochs
    rates = [finetuning(10_000, 4, width).learning_rate for width in (36, 384, 768, 1024)]
    assert rates[1] == 1e-4
    assert rates == sorted(rates, reverse=True)
    assert 1e-5 < rates[-1] < rates[0] < 1e-3
    assert distilling(10_000, 77).epochs > distilling(10_000, 2).epochs


def test_labels_teach_students_that_the_teacher_would_mislead(tmp_path):
    """With all of the weight on labels, students learn them; the teacher here knows nothing."""
    model, tokenizer = tiny_fastbert(labels=2), tiny_tokenizer(tmp_path)
    data = examples()
    self_distil(model, tokenizer, data, replace(FAST, hard_labels=1.0))
    batch = tokenizer(data.texts, padding=True, return_tensors="pt")
    answers = model(**batch, all_exits=True).exit_logits.argmax(-1)
    right = (answers == torch.tensor(data.labels)).float().mean(-1)
    assert (right[:-1] > 0.9).all()
    assert right[-1] < 0.9


def test_the_teacher_gets_no_gradient():
    logits = torch.randn(3, 2, 4, requires_grad=True)
    distillation_loss(TASK, logits[:-1], logits[-1]).backward()
    assert logits.grad is not None
    assert logits.grad[-1].abs().sum() == 0
    assert logits.grad[0].abs().sum() > 0


def test_self_distillation_moves_students_only_and_towards_the_teacher(tmp_path):
    model, tokenizer = tiny_fastbert(labels=2), tiny_tokenizer(tmp_path)
    before = copy.deepcopy(model.state_dict())
    batch = tokenizer(random_texts(20, seed=9), padding=True, return_tensors="pt")

    def loss() -> float:
        with torch.no_grad():
            logits = model(**batch, all_exits=True).exit_logits
            return distillation_loss(TASK, logits[:-1], logits[-1]).item()

    loss_before = loss()
    self_distil(model, tokenizer, Examples(random_texts(48, seed=1)), FAST)
    assert loss() < 0.7 * loss_before
    for name, value in model.state_dict().items():
        is_student = name.startswith(tuple(f"branches.{k}." for k in range(LAYERS - 1)))
        same = torch.equal(value, before[name])
        if "key.bias" not in name:  # softmax does not see a constant: its gradient is zero
            assert same != is_student, name


def test_fine_tuning_learns_the_labels(tmp_path):
    model, tokenizer = tiny_fastbert(labels=2), tiny_tokenizer(tmp_path)
    before = copy.deepcopy(model.state_dict())
    data = examples()
    finetune(model, tokenizer, data, dev=data, recipe=FAST)
    batch = tokenizer(data.texts, padding=True, return_tensors="pt")
    right = (model(**batch).logits.argmax(-1) == torch.tensor(data.labels)).float().mean()
    assert right > 0.9
    assert not model.training
    for name, value in model.state_dict().items():
        if name.startswith("branches.0."):
            assert torch.equal(value, before[name]), name  # students wait for their own step
