"""The closed form against torch's own counter, exactly."""

import numpy as np
import pytest
import torch
from support.models import CLASSES, FAMILIES, LAYERS, tiny_classifier, tiny_fastbert
from torch.utils.flop_counter import FlopCounterMode

from fastbert.inference.cost import CostModel
from fastbert.model import FastBertForSequenceClassification


def eager(model: FastBertForSequenceClassification) -> FastBertForSequenceClassification:
    """With SDPA on CPU the counter silently leaves attention out."""
    model.backbone.set_attn_implementation("eager")
    return model


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [2, 13])
@pytest.mark.parametrize("exit_layer", range(1, LAYERS + 1))
def test_closed_form_equals_the_counter(family, tokens, exit_layer):
    model = eager(tiny_fastbert(family))

    def run():
        hidden = model.embed(torch.full((1, tokens), 7))
        for layer, branch in list(zip(model.layers, model.branches, strict=True))[:exit_layer]:
            hidden = layer(hidden, None)
            branch(hidden)

    cost = CostModel(model)
    found = cost.row_flops(np.array([tokens]), np.array([exit_layer]))
    assert found.tolist() == [counted(run)]


@pytest.mark.parametrize("family", FAMILIES)
def test_full_depth_is_the_adopted_classifiers_own_cost(family):
    teacher = tiny_classifier(family)
    cost = CostModel.of(FastBertForSequenceClassification.from_classifier(teacher).config)
    teacher.set_attn_implementation("eager")
    expected = counted(lambda: teacher(input_ids=torch.full((1, 9), 7)))
    assert cost.full_flops(np.array([9])).tolist() == [expected]


def test_the_papers_numbers():
    """BERT-base at 128 tokens: 1811.9 M per layer (the paper prints 1809.9), linear maps only;
    attention products come on top. The paper's 21785 M is 12 layers and a branch."""
    cost = CostModel(12, 768, 3072, 128, 2, 2, 0, False)
    lengths = np.array([128])
    products = 4 * 128**2 * 768
    assert cost.layer_flops(lengths)[0] - products == pytest.approx(1811.94e6, rel=1e-5)
    full = cost.full_flops(lengths)[0] - 12 * products
    assert full == pytest.approx(21785e6, rel=1e-3)


def test_a_deeper_exit_costs_more():
    cost = CostModel.of(tiny_fastbert(labels=CLASSES).config)
    flops = cost.row_flops(np.full(LAYERS, 9), np.arange(1, LAYERS + 1))
    assert (np.diff(flops) > 0).all()
