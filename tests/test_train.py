"""The training job: on several workers, and what it proves with development rows."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.models import tiny_classifier, tiny_tokenizer
from support.shards import random_texts, write_shard

from fastbert.inference.engine import Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.weights import load_model
from pipelines.checkpoints.train import train
from pipelines.settings import TrainSettings


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
        train=("train",), dev=("dev",), output="model", backbone="backbone", max_length=16, **others
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
    assert evidence["rows"] == len(judges)
    assert evidence["bound"] <= 0.01


def test_rows_that_were_trained_on_prove_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path, 20, 700)
    asked = settings(epochs=0.1, distil_epochs=0.1, unlabeled=("dev",))
    summary = train(asked)
    assert not {"dev_rows", "operating_point"} & summary.keys()
    assert "350 of the 350 held-out rows" in caplog.text


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
