"""Training: what moves, what stays, and the loss against the formula."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from support.models import LAYERS, tiny_fastbert, tiny_tokenizer
from support.shards import random_texts

from fastbert.tasks.single_label import SingleLabel
from fastbert.tasks.task import NO_LABEL
from fastbert.training.examples import Examples
from fastbert.training.losses import distillation_loss
from fastbert.training.recipes import Recipe
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
    """To the end: with dev rows, the epoch is kept in which the last layer is best, be the others
    as they may."""
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


def test_with_dev_rows_the_best_epoch_is_kept(tmp_path):
    model, tokenizer = tiny_fastbert(labels=2), tiny_tokenizer(tmp_path)
    data = examples()
    finetune(model, tokenizer, data, dev=data, recipe=FAST)
    batch = tokenizer(data.texts, padding=True, return_tensors="pt")
    right = model(**batch).logits.argmax(-1) == torch.tensor(data.labels)
    assert right.float().mean() > 0.9


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
