"""DeBERTa's attention by flashdeberta, whose kernel Triton's interpreter runs on a CPU."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from support.models import random_tokens, tiny_classifier

from fastbert.inference.engine import Engine
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed import disentangled

packed = pytest.importorskip(
    "flashdeberta.ops.flash_attention_varlen",
    reason="flashdeberta is not installed: DeBERTa on GPUs is not tested",
)
LENGTHS = np.array([2, 23, 9, 9, 17, 70, 1 + 64])
#: What it takes: 16 numbers a head.
SIZES = dict(hidden_size=48, num_attention_heads=3, max_position_embeddings=80)
KINDS = {
    "both": {},
    "c2p": dict(pos_att_type=["c2p"]),
    "p2c": dict(pos_att_type=["p2c"]),
    "maps of their own": dict(share_att_key=False),
    "no buckets": dict(position_buckets=-1, max_relative_positions=7),
}


def model(**settings) -> FastBertForSequenceClassification:
    classifier = tiny_classifier("deberta-v2", **SIZES, **settings)
    return FastBertForSequenceClassification.from_classifier(classifier, branch_size=14).eval()


@pytest.fixture
def one_call(monkeypatch):
    calls = []

    def run(*arguments):
        calls.append(len(arguments[0]))
        return packed.flash_attention_with_disentangled_varlen(*arguments)

    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(disentangled, "kernel", lambda device, dtype: run)
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_groups(kind, monkeypatch, one_call):
    tokens = random_tokens(LENGTHS, seed=4)
    found = Engine(model(**KINDS[kind])).exit_logits(tokens)
    assert len(one_call) == 3  # of each layer
    monkeypatch.undo()
    expected = Engine(model(**KINDS[kind])).exit_logits(tokens)
    assert len(one_call) == 3
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_control_other_distances_are_seen(one_call):
    tokens = random_tokens(LENGTHS, seed=4)
    made = model()
    found, engine = Engine(made).exit_logits(tokens), Engine(made)
    for layer in engine.encoder.layers:
        layer.keys = layer.keys.flip(2)
    assert np.abs(engine.exit_logits(tokens) - found).max() > 1e-2


@pytest.mark.parametrize(("size", "fits"), [(64, True), (16, True), (12, False), (48, False)])
def test_sizes_of_heads(size, fits):
    assert disentangled.fits(size) == fits


def test_other_heads_go_by_length(one_call):
    classifier = tiny_classifier("deberta-v2")
    small = FastBertForSequenceClassification.from_classifier(classifier, branch_size=14).eval()
    Engine(small).exit_logits(random_tokens(LENGTHS[:4], seed=4))
    assert not one_call


def test_none_on_a_cpu():
    assert disentangled.kernel(torch.device("cpu"), torch.bfloat16) is None
