"""Training on several workers: Ray Train and transformers.Trainer find each other."""

import os
from pathlib import Path

import pytest
from conftest import random_texts, tiny_classifier, tiny_tokenizer, write_shard

from fastbert.engine import Engine
from fastbert.tokenizer import Tokenizer
from fastbert.weights import load_model
from pipelines.settings import TrainSettings
from pipelines.train import train

pytestmark = pytest.mark.integration


def test_two_workers_train_one_model(tmp_path, monkeypatch):
    """With places below the folder that the command was given in, where workers are not."""
    os.environ.pop("RAY_ADDRESS", None)
    monkeypatch.chdir(tmp_path)
    tiny_classifier().base_model.save_pretrained(tmp_path / "backbone")
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path / "backbone")
    texts = random_texts(40, longest=6)
    labels = ["red" if "red" in text else "other" for text in texts]
    write_shard(tmp_path / "in" / "a.parquet", texts, label=labels)
    settings = TrainSettings(
        train=("in",),
        dev=("in",),
        output="model",
        backbone="backbone",
        epochs=1,
        distil_epochs=1,
        batch_size=4,
        max_length=16,
        workers=2,
    )
    summary = train(settings)
    assert (summary["rows"], summary["workers"]) == (40, 2)
    model = load_model(Path(tmp_path / "model"))
    assert model.config.label_names == ["other", "red"]
    tokens = Tokenizer(tiny_tokenizer(tmp_path))(texts, None, 16)
    found = model.config.label_names
    says = Engine(model).layer_logits(tokens).argmax(-1)  # (L, n)
    right = [
        sum(found[i] == label for i, label in zip(layer, labels, strict=True)) / 40
        for layer in says
    ]
    assert summary["dev_accuracy"] == pytest.approx(right, abs=1e-4)
