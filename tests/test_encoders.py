"""Each encoder against Hugging Face's own model, at every depth: padded there, packed here."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.engines import SCATTERED, at
from support.jobs import invoke
from support.models import (
    FAMILIES,
    LAYERS,
    POSITIONS,
    VARIANTS,
    random_tokens,
    tiny_classifier,
    tiny_fastbert,
    tiny_tokenizer,
)
from support.reference import NO_TYPES
from support.shards import random_texts
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    DebertaV2Config,
    ModernBertConfig,
    PreTrainedModel,
)
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from fastbert.encoders import encoder_for
from fastbert.encoders.deberta import Distances
from fastbert.errors import InputError
from fastbert.exits.rules import NO_EXIT
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.tokenizer import check_tokenizer
from fastbert.weights import load_checkpoint

NEW = [family for family in FAMILIES if family.startswith(("deberta-v2", "modernbert"))]
#: Rows of many lengths, some the same, and longer than windows and buckets.
LENGTHS = [5, 23, 2, 17, 9, 1, 11, 4, 9, 20, 3, 32, 9]
EVERYWHERE = [*SCATTERED[:-1], {"depth": 2}, {"depth": LAYERS}, SCATTERED[-1]]


def padded(tokens: Tokens, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What Hugging Face's model takes: ids, mask and, where it reads some, types."""
    longest = max(tokens.lengths)
    mask = torch.arange(longest) < torch.from_numpy(tokens.lengths)[:, None]
    padding = model.config.pad_token_id
    given = {"input_ids": torch.full(mask.shape, padding).masked_scatter(
        mask, torch.from_numpy(tokens.ids).long()), "attention_mask": mask.long()}  # fmt: skip
    if tokens.types is not None and model.config.model_type not in NO_TYPES:
        types = torch.from_numpy(tokens.types).long()
        given["token_type_ids"] = torch.zeros(mask.shape).long().masked_scatter(mask, types)
    return given


def check_full_depth(engine: Engine, classifier: PreTrainedModel, tokens: Tokens) -> None:
    with torch.no_grad():
        expected = classifier(**padded(tokens, classifier)).logits
    np.testing.assert_allclose(engine.full_depth(tokens), expected, atol=1e-5)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_full_depth_is_the_adopted_classifier(family, pairs):
    """Texts with special tokens in their middle, and pairs, in float32."""
    classifier = tiny_classifier(family)
    model = FastBertForSequenceClassification.from_classifier(classifier)
    tokens = random_tokens(LENGTHS, seed=5, pairs=pairs, special=True)
    check_full_depth(Engine(model, batch_tokens=60), classifier, tokens)


@pytest.mark.parametrize("family", ["deberta-v2", "deberta-v2:conv", "modernbert"])
def test_rows_longer_than_positions(family):
    """Where only distances count; ModernBERT has as many positions as it says."""
    classifier = tiny_classifier(family)
    encoder = encoder_for(classifier.config)
    assert encoder.longest == POSITIONS * (1 if family == "modernbert" else 8)
    lengths = [2 * POSITIONS, POSITIONS + 1, 90] if family != "modernbert" else [POSITIONS]
    engine = Engine(FastBertForSequenceClassification.from_classifier(classifier))
    check_full_depth(engine, classifier, random_tokens(lengths))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("deberta-v2", {"pos_att_type": "p2c", "share_att_key": False}),
        ("deberta-v2", {"pos_att_type": []}),
        ("deberta-v2", {"relative_attention": False}),
        ("deberta-v2", {"norm_rel_ebd": "none", "conv_kernel_size": 5}),
        ("modernbert", {"local_attention": 0}),
        ("modernbert", {"local_attention": 8}),
        ("modernbert", {"layer_types": ["full_attention"] * LAYERS}),
        ("modernbert", {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
    ],
    ids=str,
)
def test_other_settings(family, settings):
    classifier = tiny_classifier(family, **settings)
    engine = Engine(FastBertForSequenceClassification.from_classifier(classifier), batch_tokens=60)
    tokens = random_tokens(LENGTHS, seed=5)
    check_full_depth(engine, classifier, tokens)
    usual = Engine(FastBertForSequenceClassification.from_classifier(tiny_classifier(family)))
    found, others = engine.full_depth(tokens), usual.full_depth(tokens)
    assert not np.allclose(found, others, atol=1e-3)  # control: it is another model


def check_every_exit(kind: type[Engine], family: str) -> None:
    model = tiny_fastbert(family, exits=EVERYWHERE)
    tokens = random_tokens(LENGTHS, seed=6)
    given = padded(tokens, model.backbone)
    with torch.no_grad():
        expected = model(**given, all_exits=True).exit_logits
    found = kind(model, batch_tokens=60).exit_logits(tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_read_what_they_have_learnt_from(family):
    """At every depth, 0 and the last included."""
    check_every_exit(Engine, family)


class ReadsWithoutTheNorm(Engine):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        real, last = self.encoder.readout, self.encoder.depth
        self.encoder.readout = lambda k, hidden: real(k, hidden) if k == last else hidden


class NormsTwice(Engine):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        real, last = self.encoder.readout, self.encoder.depth
        self.encoder.readout = lambda k, h: real(k, real(k, h)) if k == last else real(k, h)


@pytest.mark.parametrize("broken", [ReadsWithoutTheNorm, NormsTwice])
def test_control_readout(broken):
    with pytest.raises(AssertionError):
        check_every_exit(broken, "modernbert:mean")


class LooksEverywhere(Engine):
    """Local layers look at all tokens."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for layer in self.encoder.layers:
            layer.window = None


class LooksOneFurther(Engine):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for layer in self.encoder.layers:
            layer.window = None if layer.window is None else layer.window + 1


class OneKindOfAngles(Engine):
    """Local layers turn by the angles of the others."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for layer in self.encoder.layers:
            layer.cos, layer.sin = self.encoder.rotations["full_attention"]


@pytest.mark.parametrize("broken", [LooksEverywhere, LooksOneFurther, OneKindOfAngles])
def test_control_local_layers(broken):
    with pytest.raises(AssertionError):
        check_every_exit(broken, "modernbert")


class ForgetsDistances(Engine):
    """Contents look at contents only."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for layer in self.encoder.layers:
            layer.distances = None


class MixesRows(Engine):
    """The convolution goes over all that lies in a batch."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        real = self.encoder.conv
        self.encoder.conv = lambda x: real(x.transpose(0, 1).flatten(1)[None]).unflatten(
            2, (len(x), -1))[0].transpose(0, 1)  # fmt: skip


@pytest.mark.parametrize("broken", [ForgetsDistances, MixesRows])
def test_control_distances_and_neighbours(broken):
    with pytest.raises(AssertionError):
        check_every_exit(broken, "deberta-v2:conv")


@pytest.mark.parametrize(
    ("buckets", "limit", "longest"),
    [(256, 512, 4096), (256, -1, 700), (6, 41, 328), (-1, 7, 41), (32, 128, 512), (5, 30, 99)],
)
def test_distances_are_where_hugging_face_finds_them(buckets, limit, longest):
    config = DebertaV2Config(position_buckets=buckets, max_relative_positions=limit)
    found = Distances(config, longest)
    limit = limit if limit > 0 else 512
    span = buckets if buckets > 0 else limit
    for length in (1, 2, 40, longest):
        row = torch.empty(1, length, 1)
        places = build_relative_position(row, row, buckets, limit)[0] + span
        expected = places.clamp(0, 2 * span - 1)
        needed, places = found.between(length)
        assert torch.equal(places + needed.start, expected)
        assert (needed.start, needed.stop - 1) == (expected.min(), expected.max())
        assert found.buckets(np.array([length])) == [needed.stop - needed.start]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("family", NEW)
def test_low_precision(family, precision):
    tokens, model = random_tokens(LENGTHS * 3, seed=3), tiny_fastbert(family)
    full = torch.from_numpy(Engine(model).exit_logits(tokens)).softmax(-1)
    low = Engine(model, dtype=DTYPES[precision])
    found = torch.from_numpy(low.exit_logits(tokens)).softmax(-1)
    assert 0 < (found - full).abs().mean() < 0.05
    answered = low.classify(tokens, at(0.6, low))
    assert (answered.exit != NO_EXIT).all()


CANNOT_BE: list[tuple[type, dict[str, Any], str]] = [
    (DebertaV2Config, {"hidden_size": 35}, "hidden_size"),
    (DebertaV2Config, {"num_attention_heads": 0}, "num_attention_heads"),
    (DebertaV2Config, {"hidden_act": "nope"}, "hidden_act"),
    (DebertaV2Config, {"attention_head_size": 8}, "attention_head_size"),
    (DebertaV2Config, {"type_vocab_size": -1}, "type_vocab_size"),
    (DebertaV2Config, {"position_buckets": 1}, "position_buckets"),
    (DebertaV2Config, {"position_buckets": 1022}, "position_buckets"),
    (DebertaV2Config, {"conv_kernel_size": 4}, "conv_kernel_size"),
    (DebertaV2Config, {"conv_kernel_size": 3, "conv_groups": 5}, "conv_groups"),
    (DebertaV2Config, {"conv_act": "nope"}, "conv_act"),
    (DebertaV2Config, {"pad_token_id": 128100}, "pad_token_id"),
    (DebertaV2Config, {"pooler_hidden_act": "nope"}, "pooler_hidden_act"),
    (ModernBertConfig, {"num_attention_heads": 7}, "hidden_size"),
    (ModernBertConfig, {"hidden_size": 780 // 4, "num_attention_heads": 13}, "even number"),
    (ModernBertConfig, {"hidden_activation": "nope"}, "hidden_activation"),
    (ModernBertConfig, {"norm_eps": -1.0}, "norm_eps"),
    (ModernBertConfig, {"local_attention": -1}, "local_attention"),
    (ModernBertConfig, {"layer_types": ["full_attention"]}, "layer_types"),
    (ModernBertConfig, {"layer_types": ["chunked_attention"] * 22}, "layer_types"),
    (ModernBertConfig, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_param"),
]


@pytest.mark.parametrize(("kind", "settings", "says"), CANNOT_BE, ids=str)
def test_encoders_that_cannot_be(kind, settings, says):
    usual = {"hidden_size": 768, "num_attention_heads": 12, "relative_attention": True}
    usual = usual if kind is DebertaV2Config else {}
    encoder_for(kind(**usual))
    config = kind(**usual)
    try:
        config = kind(**usual | settings)
    except Exception:  # what transformers itself refuses may still come by another way
        for name, value in settings.items():
            setattr(config, name, value)
    with pytest.raises(InputError, match=says):
        encoder_for(config)


def test_a_pooler_of_another_size():
    """Hugging Face makes such a classifier, which answers nothing."""
    config = tiny_classifier("deberta-v2").config
    config.pooler_hidden_size = 24
    classifier = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(InputError, match="pooler_hidden_size is 24, expected 36"):
        FastBertForSequenceClassification.from_classifier(classifier)


def test_a_model_without_types_takes_pairs(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    for family in ("deberta-v2", "modernbert"):
        check_tokenizer(tokenizer, tiny_classifier(family).config, pairs=True)


@pytest.mark.parametrize("family", ["deberta-v2:conv", "modernbert"])
def test_training_from_a_pretrained_backbone(family, tmp_path):
    AutoModelForMaskedLM.from_config(tiny_classifier(family).config).save_pretrained(tmp_path / "b")
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path / "b")
    texts = random_texts(40)
    columns = {"text": texts, "pair": texts[::-1], "label": ["x", "y"] * 20}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    options = ["--epochs", 1, "--distil-epochs", 1, "--max-length", 30, "--pair-column", "pair"]
    call = ["--backbone", tmp_path / "b", "--train", tmp_path / "train.parquet", *options]
    result = invoke("train", *call, "--output", tmp_path / "model")
    assert result.exit_code in (0, 3), result.output  # so few rows prove nothing
    model, _ = load_checkpoint(tmp_path / "model", pairs=True)
    assert len(model.exits) == LAYERS
    assert model.config.head_layouts == []
    tokens = random_tokens(LENGTHS, pairs=True)
    with torch.no_grad():
        expected = model(**padded(tokens, model.backbone), all_exits=True).exit_logits
    np.testing.assert_allclose(Engine(model).exit_logits(tokens), expected, atol=1e-5)


def test_variants_are_what_they_say():
    """Otherwise they would test what their family does."""
    usual = {name: tiny_classifier(name).config for name in ("deberta-v2", "modernbert")}
    for name, settings in VARIANTS.items():
        config = usual[name.partition(":")[0]]
        assert all(getattr(config, key, None) != value for key, value in settings.items()), name
