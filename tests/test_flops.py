"""The closed form against torch's own counter, exactly."""

from typing import Any

import numpy as np
import pytest
import torch
from support.models import (
    CLASSES,
    FAMILIES,
    LAYERS,
    random_tokens,
    tiny_classifier,
    tiny_fastbert,
)
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from fastbert.configuration import FastBertConfig
from fastbert.encoders.pretrained import new_backbone
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.model import FastBertForSequenceClassification

TWO_AT_ONE_DEPTH = [{"depth": 1}, {"depth": 1}, {"depth": 3, "head": "adopted"}]


def eager(model: PreTrainedModel) -> Any:
    """With SDPA on CPU the counter silently leaves attention out; views of weights that could
    learn confuse it."""
    model.set_attn_implementation("eager")
    return model.requires_grad_(False)


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def needless(config: PreTrainedConfig, tokens: int, layers: int) -> int:
    """Superfluous work of Hugging Face's DeBERTa: tables of distances, for every batch anew, and
    the products with distances that the row does not have."""
    if config.model_type != "deberta-v2":
        return 0
    kinds, buckets = len(config.pos_att_type), config.position_buckets
    limit = config.max_relative_positions
    limit = limit if limit > 0 else config.max_position_embeddings
    row, table = torch.empty(1, tokens, 1), 2 * (buckets if buckets > 0 else limit)
    places = build_relative_position(row, row, buckets, limit) + table // 2
    others = table - len(places.clamp(0, table - 1).unique())
    maps = 2 if config.share_att_key else kinds
    width = config.hidden_size
    return layers * 2 * width * (maps * table * width + kinds * tokens * others)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [2, 13])
@pytest.mark.parametrize(
    "exits", [None, [{"depth": 1}, {"depth": 1}, {"depth": 3, "head": "adopted"}]]
)
def test_closed_form_equals_the_counter(family, tokens, exits):
    model = eager(tiny_fastbert(family, exits=exits))
    ids = torch.full((1, tokens), 7)
    for exit, last in enumerate(model.exits):
        # Of a model that is as deep as the exit, and has no others behind it.
        config = model.config.backbone_config()
        config.num_hidden_layers = last.depth
        if hasattr(config, "layer_types"):
            config.layer_types = config.layer_types[: last.depth]
        shallow = eager(new_backbone(config, "eager")).eval()
        with torch.no_grad():
            states = model.backbone(ids, output_hidden_states=True).hidden_states

        def run(shallow=shallow, states=states, exit=exit):
            shallow(ids)
            for at, head in zip(model.exits[: exit + 1], model.heads, strict=False):
                head(states[at.depth])

        found = CostModel(model).row_flops(np.array([tokens]), np.array([exit]))
        assert found.tolist() == [counted(run) - needless(config, tokens, last.depth)]


@pytest.mark.parametrize("family", FAMILIES)
def test_full_depth_is_the_adopted_classifiers_own_cost(family):
    teacher = tiny_classifier(family)
    cost = CostModel(FastBertForSequenceClassification.from_classifier(teacher))
    expected = counted(lambda: eager(teacher)(input_ids=torch.full((1, 9), 7)))
    expected -= needless(teacher.config, 9, LAYERS)
    assert cost.full_flops(np.array([9])).tolist() == [expected]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_computes_no_more(family):
    """Tables of distances, for one, not for every batch anew."""
    model = tiny_fastbert(family).double()
    engine, tokens = Engine(model, dtype=torch.float64), random_tokens([32, 32])  # a full batch
    found = counted(lambda: engine.full_depth(tokens))
    assert found == CostModel(model).full_flops(tokens.lengths).sum()


def test_the_papers_numbers():
    """BERT-base at 128 tokens: 1811.9 M per layer (the paper prints 1809.9), linear maps only;
    attention products come on top. The paper's 21785 M is 12 layers and a branch."""
    config = FastBertConfig(backbone=BertConfig().to_dict())
    with torch.device("meta"):
        model = FastBertForSequenceClassification(config)
    lengths = np.array([128])
    products = 4 * 128**2 * 768
    assert model.encoder.flops(1, lengths)[0] - products == pytest.approx(1811.94e6, rel=1e-5)
    full = CostModel(model).full_flops(lengths)[0] - 12 * products
    assert full == pytest.approx(21785e6, rel=1e-3)


def test_a_deeper_exit_costs_more():
    cost = CostModel(tiny_fastbert(labels=CLASSES))
    flops = cost.row_flops(np.full(LAYERS, 9), np.arange(LAYERS))
    assert (np.diff(flops) > 0).all()
