"""Classifiers as they are published, of fewer layers, smaller and with random weights: through
distill, calibrate and label, and at full depth what Hugging Face's pipeline gives."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from support.jobs import invoke
from support.labelling import table_of
from support.models import VOCABULARY, make_noisy, tiny_tokenizer
from support.shards import random_texts
from support.stages import InProcess
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, pipeline

from fastbert.tokenizer import load_tokenizer

LENGTH = 24
TEXTS = [*random_texts(40, seed=5, longest=30), "the [SEP] red <pad> [PAD] </s> stone", "river"]

SMALL = {"vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 3,
         "num_attention_heads": 12, "intermediate_size": 72}  # fmt: skip
ROBERTA = SMALL | {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
                   "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}  # fmt: skip
DEBERTA_V3 = SMALL | {
    "hidden_act": "gelu", "layer_norm_eps": 1e-7, "max_position_embeddings": 512,
    "max_relative_positions": -1, "norm_rel_ebd": "layer_norm", "pooler_dropout": 0,
    "pooler_hidden_act": "gelu", "pooler_hidden_size": 48, "pos_att_type": "p2c|c2p",
    "position_biased_input": False, "position_buckets": 256, "relative_attention": True,
    "share_att_key": True, "type_vocab_size": 0, "pad_token_id": 0,
}  # fmt: skip
MODERNBERT = SMALL | {
    "classifier_pooling": "mean", "global_attn_every_n_layers": 3, "local_attention": 8,
    "norm_bias": False, "attention_bias": False, "mlp_bias": False, "classifier_bias": False,
    "classifier_activation": "gelu", "hidden_activation": "gelu", "norm_eps": 1e-5,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
}  # fmt: skip
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 48, "n_layers": 3, "n_heads": 12, "hidden_dim": 72,
              "activation": "gelu", "sinusoidal_pos_embds": False}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What a config.json says, and how Hugging Face's pipeline is asked."""

    family: str
    settings: dict[str, Any]
    labels: list[str]
    problem: str | None = None
    function: str = "softmax"
    pairs: bool = False
    calibrate: list[Any] = field(default_factory=list)


def numbered(count: int) -> list[str]:
    return [f"LABEL_{k}" for k in range(count)]


MULTI = {"problem": "multi_label_classification", "function": "sigmoid"}
MODELS = {
    "ProsusAI/finbert": Published("bert", SMALL, ["positive", "negative", "neutral"]),
    "unitary/toxic-bert": Published("bert", SMALL, ["toxic", "severe_toxic", "obscene", "threat",
                                                    "insult", "identity_hate"], **MULTI),
    "HuggingFaceFW/fineweb-edu-classifier": Published(
        "bert", SMALL | {"classifier_dropout": 0.0}, numbered(1), "regression", "none",
        calibrate=["--cutoff", 0.1]),
    "distilbert-base-uncased-finetuned-sst-2-english": Published(
        "distilbert", DISTILBERT, ["NEGATIVE", "POSITIVE"]),
    "cardiffnlp/twitter-roberta-base-sentiment": Published("roberta", ROBERTA, numbered(3)),
    "SamLowe/roberta-base-go_emotions": Published("roberta", ROBERTA, numbered(28), **MULTI),
    "unitary/unbiased-toxic-roberta": Published("roberta", ROBERTA, numbered(16), **MULTI),
    "papluca/xlm-roberta-base-language-detection": Published(
        "xlm-roberta", ROBERTA, numbered(20), "single_label_classification"),
    "protectai/deberta-v3-base-prompt-injection-v2": Published(
        "deberta-v2", DEBERTA_V3, ["SAFE", "INJECTION"], "single_label_classification"),
    "MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli": Published(
        "deberta-v2", DEBERTA_V3, ["entailment", "neutral", "contradiction"], pairs=True),
    "meta-llama/Prompt-Guard-86M": Published(
        "deberta-v2", DEBERTA_V3 | {"initializer_range": 0.02},
        ["BENIGN", "INJECTION", "JAILBREAK"]),
    "a classifier of answerdotai/ModernBERT-base": Published(
        "modernbert", MODERNBERT, numbered(4), "single_label_classification"),
}  # fmt: skip


def save_tokenizer(family: str, folder: Path) -> None:
    kind = "roberta" if family in ("roberta", "xlm-roberta") else family
    tiny_tokenizer(folder, kind).save_pretrained(folder)


def save_corpus(folder: Path, pairs: bool) -> list[str]:
    """Texts, and the options that name their columns."""
    columns: dict[str, Any] = {"text": TEXTS}
    if pairs:
        columns["hypothesis"] = TEXTS[::-1]
    pq.write_table(pa.table(columns), folder / "in.parquet")
    return ["--pair-column", "hypothesis"] if pairs else []


def through_the_commands(folder: Path, options: list[str], calibrate: list[Any]) -> pa.Table:
    """The table that the last of them writes at full depth, with all scores."""
    texts = folder / "in.parquet"
    common = ["--model", folder / "model", *options, "--precision", "fp32"]
    for call in (
        ["distill", "--teacher", folder / "teacher", "--corpus", texts, "--output",
         folder / "model", "--distil-epochs", 2, "--max-length", LENGTH, *options],
        ["calibrate", "--corpus", texts, "--max-disagreement", 0.9, *common, *calibrate],
        ["label", "--input", texts, "--output", folder / "early", *common],
        ["label", "--input", texts, "--output", folder / "deep", "--speed", 0, *common,
         *([] if calibrate else ["--all-scores"])],
    ):  # fmt: skip
        result = invoke(*call)
        assert result.exit_code == 0, (call, result.output)
    early = table_of(folder / "early")
    assert early.num_rows == len(TEXTS)
    assert early["error"].null_count == len(TEXTS)
    assert min(early["exit_layer"].to_pylist()) < 3
    return table_of(folder / "deep")


@pytest.fixture(autouse=True)
def in_process(monkeypatch) -> None:
    monkeypatch.setattr("pipelines.running.executor.Chosen", InProcess)


@pytest.mark.parametrize("name", MODELS)
def test_full_depth_is_the_pipelines(name, tmp_path):
    published = MODELS[name]
    folder = tmp_path / "teacher"
    folder.mkdir()
    settings = published.settings | {"id2label": dict(enumerate(published.labels))}
    config = AutoConfig.for_model(published.family, **settings, problem_type=published.problem)
    torch.manual_seed(0)
    model = make_noisy(AutoModelForSequenceClassification.from_config(config), 1)
    model.save_pretrained(folder)
    save_tokenizer(published.family, folder)
    options = save_corpus(tmp_path, published.pairs)
    table = through_the_commands(tmp_path, options, published.calibrate)

    ask = pipeline("text-classification", model=str(folder), tokenizer=load_tokenizer(folder))
    texts: list[Any] = TEXTS
    if published.pairs:
        texts = [{"text": a, "text_pair": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
    theirs = [
        {each["label"]: each["score"] for each in found}
        for text in texts
        for found in [ask([text], top_k=None, truncation=True, max_length=LENGTH,
                          function_to_apply=published.function)[0]]
    ]  # fmt: skip
    if published.function == "none":
        values = [found[published.labels[0]] for found in theirs]
        np.testing.assert_allclose(table["value"].to_numpy(), values, atol=1e-5)
        return
    scores = np.array(table["scores"].to_pylist())
    expected = np.array([[found[label] for label in published.labels] for found in theirs])
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    if published.function == "softmax":
        best = [max(found, key=lambda label: found[label]) for found in theirs]
        assert table["label"].to_pylist() == best
    else:
        above = [{label for label, p in found.items() if p > 0.5} for found in theirs]
        assert [{*labels} for labels in table["labels"].to_pylist()] == above


class Mixin(nn.Module):
    """As NVIDIA's pages have it."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.dropout = backbone, nn.Dropout(0.2)
        self.fc = nn.Linear(SMALL["hidden_size"], classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return torch.softmax(self.fc(self.dropout(features.last_hidden_state))[:, 0, :], dim=1)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("domain-classifier", 26), ("quality-classifier-deberta", 3),
     ("content-type-classifier-deberta", 11)],
)  # fmt: skip
def test_nvidias_are_their_own_forward_pass(name, classes, tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    config = AutoConfig.for_model("deberta-v2", **DEBERTA_V3)
    config.save_pretrained(tmp_path / "deberta-v3-base")
    torch.manual_seed(0)
    model = make_noisy(Mixin(AutoModel.from_config(config), classes), 1)
    settings = {"base_model": str(tmp_path / "deberta-v3-base"), "fc_dropout": 0.2,
                "id2label": dict(enumerate(numbered(classes)))}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer("deberta-v2", folder)
    table = through_the_commands(tmp_path, save_corpus(tmp_path, False), [])
    inputs = load_tokenizer(folder)(
        TEXTS, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(inputs["input_ids"], inputs["attention_mask"]).numpy()
    np.testing.assert_allclose(np.array(table["scores"].to_pylist()), expected, atol=1e-5)
    labels = [f"LABEL_{k}" for k in expected.argmax(1)]
    assert table["label"].to_pylist() == labels
