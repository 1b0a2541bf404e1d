"""8-bit floating-point products, which CPUs compute, too: near bf16, and each token alone."""

import numpy as np
import pytest
import torch
from support.models import BRANCH, VOCABULARY, random_tokens
from support.same import check_a_row_is_alone
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from fastbert.inference.engine import DTYPES, Engine
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed import fp8, linear

#: Half a step of a number with three bits behind the point, by the square root of the inputs' sum.
NEAR = 0.04


def made(inputs: int, outputs: int, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs).to(torch.bfloat16)


def rows(count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)


@torch.inference_mode()
def test_a_product_is_near_and_a_rows_own():
    maps, x = [made(272, 256), made(272, 48, seed=1)], rows(23, 272)
    found = linear.prepared(maps, factors=fp8.DTYPE)
    expected = torch.cat([part(x) for part in maps], 1).float()
    error = found(x).float() - expected
    assert 0.001 < error.std() < NEAR  # 0: it was not multiplied so
    check_a_row_is_alone(found, x, 0.03)  # a last bit of bf16, where sums are added otherwise


@torch.inference_mode()
def test_gelu_of_a_block_is_applied_before_the_way_down():
    up, down, x = made(256, 512), made(512, 256), rows(9, 256)
    found = linear.block(up, "gelu", down, fp8.DTYPE)(x).float()
    expected = down(functional.gelu(up(x))).float()
    assert 0 < (found - expected).std() < NEAR
    relu = linear.block(up, "relu", down, fp8.DTYPE)(x).float()
    assert (relu - down(functional.relu(up(x))).float()).std() < NEAR < (relu - expected).std()


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(256, 255), (264, 256), (256, 128), (24, 256)])
def test_what_does_not_pay_is_multiplied_as_before(shape):
    one, x = made(*shape), rows(5, shape[0])
    assert torch.equal(linear.prepared([one], factors=fp8.DTYPE)(x), linear.prepared([one])(x))


@torch.inference_mode()
def test_what_is_not_a_number_stays_visible():
    x = rows(4, 256)
    x[1, 2], x[2, 3], x[3] = float("nan"), float("inf"), 0
    one = made(256, 256)
    found = linear.prepared([one], factors=fp8.DTYPE)(x)
    assert found.isfinite().all(1).tolist() == [True, False, False, True]
    torch.testing.assert_close(found[3], one.bias)


def test_the_private_operator_gives_the_same(monkeypatch):
    def multiplied() -> torch.Tensor:
        fp8._product.cache_clear()
        return linear.prepared([made(256, 256)], factors=fp8.DTYPE)(rows(5, 256))

    expected = multiplied()
    monkeypatch.delattr(functional, "scaled_mm")
    assert torch.equal(multiplied(), expected)
    monkeypatch.undo()
    fp8._product.cache_clear()


def test_an_engine_answers_nearly_as_in_bf16_and_alone_as_in_company():
    sizes = dict(hidden_size=256, num_hidden_layers=3, num_attention_heads=4, intermediate_size=272)
    torch.manual_seed(0)
    classifier = BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, **sizes))
    model = FastBertForSequenceClassification.from_classifier(classifier, branch_size=BRANCH).eval()
    tokens = random_tokens(np.arange(2, 30), seed=3)
    bf16 = Engine(model, dtype=DTYPES["bf16"]).exit_logits(tokens)
    engine = Engine(model, dtype=DTYPES["fp8"], batch_tokens=64)
    found = engine.exit_logits(tokens)
    assert 0 < (found - bf16).std() < 0.2 * bf16.std(1).mean()
    for some in ([5], [0, 27], [27, 11, 3]):
        alone = engine.exit_logits(tokens.take(np.array(some)))
        np.testing.assert_allclose(alone, found[:, some], rtol=0, atol=0.1)
