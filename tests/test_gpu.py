"""On a card, whose own kernels are to run: TRITON_INTERPRET=0 pytest -m gpu."""

import numpy as np
import pytest
import torch
from support.engines import KINDS, engine, soft
from support.models import random_tokens, tiny_classifier

from fastbert.calibration.evaluation import exit_outputs
from fastbert.inference.engine import DTYPES, Engine
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed import fp8, norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TOKENS = random_tokens([5, 9, 2, 17, 9, 11, 4, 9, 20, 3], seed=4)


@pytest.mark.parametrize("kind", KINDS)
def test_cuda_equals_the_reference(kind):
    here = engine(kind)
    on_gpu = Engine(here.model, "cuda", batch_tokens=50, pool_tokens=130)
    np.testing.assert_allclose(on_gpu.exit_logits(TOKENS), here.exit_logits(TOKENS), atol=1e-3)
    heard = exit_outputs(here, TOKENS).heard(soft(1, here)).uncertainties[:-1]
    rule = soft(float(np.median(heard)) + 1e-4, here)
    assert np.array_equal(on_gpu.classify(TOKENS, rule).exit, here.classify(TOKENS, rule).exit)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "modernbert"])
def test_kernels_of_a_card_equal_the_reference(family, precision):
    """Of sizes that they take."""
    sizes = dict(hidden_size=256, num_attention_heads=4, intermediate_size=512)
    classifier = tiny_classifier(family, **sizes, hidden_act="gelu")
    model = FastBertForSequenceClassification.from_classifier(classifier, branch_size=64).eval()
    on_gpu = Engine(model, "cuda", DTYPES[precision], batch_tokens=200, pool_tokens=500)
    assert on_gpu.ragged
    assert norm.kernel(on_gpu.device, torch.bfloat16)
    assert precision == "bf16" or fp8._kernel(on_gpu.device)
    tokens = random_tokens(np.arange(2, 32), seed=3)
    expected, found = Engine(model).exit_logits(tokens), on_gpu.exit_logits(tokens)
    near = np.abs(found - expected).mean() / expected.std()
    assert near < {"bf16": 0.05, "fp8": 0.3}[precision]
