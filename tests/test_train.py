"""The training job: what it learns from, how it is judged, and what it proves."""

import os
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import beta
from support.models import tiny_classifier, tiny_tokenizer
from support.shards import random_texts, write_shard
from transformers import TrainerState

import pipelines.checkpoints.train as train_module
from fastbert.calibration.evaluation import ExitOutputs
from fastbert.inference.engine import Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tasks.single_label import SingleLabel
from fastbert.training.trainer import _Progress
from fastbert.weights import load_model
from pipelines.checkpoints.judge import Verdict
from pipelines.checkpoints.settings import TrainSettings
from pipelines.checkpoints.train import train


def corpus(folder: Path, train_rows: int, dev_rows: int) -> tuple[list[str], list[str]]:
    """A tiny backbone, texts and labels below a folder; returns those for development."""
    tiny_classifier().base_model.save_pretrained(folder / "backbone")
    tiny_tokenizer(folder).save_pretrained(folder / "backbone")
    texts = random_texts(train_rows + dev_rows, longest=6)
    labels = ["red" if "red" in text else "other" for text in texts]
    write_shard(folder / "train" / "a.parquet", texts[:train_rows], label=labels[:train_rows])
    write_shard(folder / "dev" / "a.parquet", texts[train_rows:], label=labels[train_rows:])
    return texts[train_rows:], labels[train_rows:]


def settings(**others) -> TrainSettings:
    """Places are below the folder that the command is given in."""
    return TrainSettings(
        **dict(train=("train",), dev=("dev",), output="model", backbone="backbone", max_length=16)
        | others
    )


def test_dev_rows_judge_every_layer_and_prove_a_point(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts, labels = corpus(tmp_path, 400, 2000)
    summary = train(settings(epochs=3, learning_rate=1e-2, batch_size=8, distil_epochs=2))
    model = load_model(tmp_path / "model")
    seen = set(pq.read_table("train/a.parquet")["text"].to_pylist())
    judges = np.random.default_rng(0).permutation(len(texts))[1::2]
    judges = [i for i in judges if texts[i] not in seen]
    tokens = Tokenizer(tiny_tokenizer(tmp_path))([texts[i] for i in judges], None, 16)
    answers = Engine(model).exit_logits(tokens).argmax(-1)  # (L, n)
    truth = [model.config.label_names.index(labels[i]) for i in judges]
    assert 300 < len(judges) == summary["dev_rows"] < 1000
    assert summary["dev_accuracy_by_layer"] == pytest.approx((answers == truth).mean(1), abs=1e-4)
    name = model.config.default_operating_point
    assert name == summary["operating_point"]["name"] == "max-disagreement-0.01"
    evidence = model.config.operating_points[name]["evidence"]
    assert evidence["rows"] == pytest.approx(0.9 * len(judges), rel=0.05)  # the rest learns
    assert evidence["bound"] <= 0.01


def test_rows_that_were_trained_on_prove_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path, 20, 700)
    asked = settings(epochs=0.1, distil_epochs=0.1, unlabeled=("dev",))
    summary = train(asked)
    assert not {"dev_rows", "operating_point"} & summary.keys()
    assert "350 of the 350 held-out rows" in caplog.text


def test_without_dev_rows_some_are_held_out(tmp_path, monkeypatch, caplog):
    """The same ones each time, and none of them is learnt."""
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    texts, labels = corpus(tmp_path, 1, 2500)  # a row of --train, which is not used here
    write_shard(tmp_path / "train" / "a.parquet", texts, label=labels)
    learnt = []
    monkeypatch.setattr("pipelines.checkpoints.train.finetune", spy(learnt))
    asked = dict(epochs=0.1, distil_epochs=0.1, dev=())
    first, again = train(settings(**asked)), train(settings(**asked))
    assert learnt[0] == learnt[1]
    known, chosen = learnt[0]
    assert (len(known), len(chosen), first["rows"]) == (2100, 100, 2100)
    assert first["dev_rows"] == again["dev_rows"] < 300  # of 300, those with a text that is known
    assert "400 of the 2500 rows of --train are held out, drawn with seed 0" in caplog.text
    assert train(settings(**asked, seed=1))["dev_accuracy"] != first["dev_accuracy"]
    assert learnt[2] != learnt[0]


def test_the_papers_recipe(tmp_path, monkeypatch):
    """As far as nothing else is asked for, and the backbone can."""
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path, 40, 40)
    learnt, recipes = [], []
    monkeypatch.setattr("pipelines.checkpoints.train.finetune", spy(learnt, recipes))
    summary = train(settings(recipe="paper", max_length=None, distil_epochs=0.1))
    assert (recipes[0].epochs, recipes[0].learning_rate, recipes[0].batch_size) == (3, 2e-5, 32)
    assert summary["max_length"] == load_model(tmp_path / "model").encoder.longest < 128
    train(settings(recipe="paper", epochs=0.5, distil_epochs=0.1))
    assert (recipes[1].epochs, recipes[1].learning_rate) == (0.5, 2e-5)


def spy(learnt: list, recipes: list | None = None):
    """`finetune` that remembers what it was given."""

    def finetune(model, tokenizer, rows, dev, *, recipe, **more):
        learnt.append((rows.texts, dev.texts))
        if recipes is not None:
            recipes.append(recipe)
        return real(model, tokenizer, rows, dev, recipe=recipe, **more)

    real = train_module.finetune
    return finetune


@pytest.mark.parametrize("sense", [True, False], ids=["classes", "noise"])
def test_a_model_that_is_no_better_than_its_most_frequent_class_ends_with_3(
    sense, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    texts, labels = corpus(tmp_path, 1, 500)
    if not sense:
        labels = np.random.default_rng(0).choice(["red", "other"], 500).tolist()
    write_shard(tmp_path / "train" / "a.parquet", texts, label=labels)
    asked = settings(epochs=8, learning_rate=3e-3, batch_size=8, distil_epochs=0.5, dev=())
    summary = train(asked)
    proven = summary["dev_accuracy_bound"] > summary["dev_majority"]
    assert proven is sense
    assert summary.get("exit_code", 0) == (0 if sense else 3)
    assert ("DO NOT TRUST THIS MODEL" in caplog.text) is not sense
    assert ("next: fastbert " in caplog.text) is sense
    assert re.search(r"full depth is right in \d+\.\d% of \d+ held-out rows", caplog.text)
    assert "; full depth itself is wrong in" in caplog.text or "not calibrated" in caplog.text


def test_few_rows_promise_what_they_can_prove(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path, 400, 300)
    summary = train(settings(epochs=3, learning_rate=1e-2, batch_size=8, distil_epochs=2))
    share = summary["operating_point"]["promise"]["share"]
    assert share > 0.01
    assert summary["operating_point"]["evidence"]["bound"] <= share
    assert "no promise of 0.01: " in caplog.text


def test_a_verdict_by_hand():
    task = SingleLabel(["a", "b", "c"])
    logits = np.full((2, 5, 3), -1.0, np.float32)
    logits[0, range(5), [0, 0, 0, 0, 0]] = 1
    logits[1, range(5), [0, 0, 0, 1, 0]] = 1
    verdict = Verdict.of(
        ExitOutputs(logits, np.ones(5, np.int64), task), np.array([0, 0, 0, 1, 1]), list("abc")
    )
    assert verdict.by_exit == [0.6, 0.8]
    assert (verdict.majority, verdict.frequent, verdict.balanced) == (0.6, "a", 0.75)
    assert verdict.bound == pytest.approx(1 - beta.ppf(0.95, 2, 4))
    assert not verdict.useful
    assert verdict.by_class == {"a": 1.0, "b": 0.5}
    assert verdict.confused == [("b", "a", 1)]


def test_classes_that_are_never_right_are_named(caplog):
    caplog.set_level("INFO")
    logits = np.full((1, 6, 3), -1.0, np.float32)
    logits[0, range(6), [0, 0, 0, 0, 1, 0]] = 1
    outputs = ExitOutputs(logits, np.ones(6, np.int64), SingleLabel(["a", "b", "c"]))
    verdict = Verdict.of(outputs, np.array([0, 0, 0, 0, 2, 2]), list("abc"))
    verdict.tell([1])
    assert "66.7% of 6 held-out rows (50.0% as a mean over classes)" in caplog.text
    assert "most frequent mistakes: 'c' answered as 'b' (1), 'c' answered as 'a' (1)" in caplog.text
    assert "of 2 classes 1 are never answered correctly: 'c'" in caplog.text
    assert verdict.summary()["dev_accuracy_by_class"] == {"a": 1.0, "c": 0.0}


def test_what_is_left_is_told_by_tokens_not_by_steps(caplog, monkeypatch):
    """The longest texts come first: a fifth of the tokens may be one step of a hundred."""
    caplog.set_level("INFO")
    clock = iter([0.0, 600.0, 700.0])
    monkeypatch.setattr("fastbert.training.trainer.time.monotonic", lambda: next(clock))
    progress = _Progress("fine-tune", False, tokens=1000.0, then=500.0)
    progress.read = 200
    state = TrainerState(global_step=1, max_steps=100, is_world_process_zero=True)
    progress.on_log(mock.Mock(world_size=1), state, None, {"loss": 1.0})
    progress.on_log(mock.Mock(world_size=2), state, None, {"loss": 1.0})
    first, hint, second = (record.getMessage() for record in caplog.records)
    assert first.endswith("40 min left, then 25 min of self-distilling")
    assert hint.startswith("about 75 min in all on ")
    assert "--epochs 1 --distil-epochs 1" in hint
    assert second.endswith("18 min left, then 15 min of self-distilling")


@pytest.mark.integration
def test_two_workers_train_one_model(tmp_path, monkeypatch):
    """In folders of Ray's, not in that of the command."""
    os.environ.pop("RAY_ADDRESS", None)
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path, 40, 9)
    summary = train(settings(epochs=1, distil_epochs=1, batch_size=4, workers=2))
    # Of four rows that judge, two were trained on.
    assert (summary["rows"], summary["workers"], summary["dev_rows"]) == (40, 2, 2)
    assert "operating_point" not in summary  # two rows prove nothing
    assert load_model(tmp_path / "model").config.label_names == ["other", "red"]
