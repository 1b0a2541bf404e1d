"""Kernels for GPUs, on a CPU by Triton's interpreter (conftest.py), against float64."""

import pytest
import torch
from torch.nn import functional

from fastbert.packed import norm
from fastbert.packed.linear import prepared

pytest.importorskip("triton", reason="its kernels are not tested where there is no Triton")
from fastbert.packed.fused import add_norm  # noqa: E402


@pytest.mark.parametrize("width", [24, 64, 97])
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
def test_a_sum_is_normalised(width, dtype, error):
    generator = torch.Generator().manual_seed(width)
    x, residual = (torch.randn(5, width, generator=generator).to(dtype) for _ in range(2))
    x[3] = residual[3] = 0  # no variance
    weight, bias = (torch.randn(width, generator=generator).to(dtype) for _ in range(2))
    kept = x.clone()
    found = add_norm(x, residual, weight, bias, 1e-5)
    numbers = (x.double() + residual.double(), (width,), weight.double(), bias.double(), 1e-5)
    expected = functional.layer_norm(*numbers)
    torch.testing.assert_close(found.double(), expected, atol=error, rtol=error)
    assert torch.equal(x, kept)
    assert torch.equal(found[3], bias)


def test_control_other_norms_are_seen():
    x, weight, bias = torch.randn(3, 24), torch.ones(24), torch.zeros(24)
    expected = functional.layer_norm(2 * x, (24,))
    torch.testing.assert_close(add_norm(x, x, weight, bias, 1e-5), expected)
    assert not torch.allclose(add_norm(x, x, weight, bias, 1.0), expected, atol=1e-3)
    assert not torch.allclose(add_norm(x, -x, weight, bias, 1e-5), expected, atol=1e-3)


def test_none_on_a_cpu():
    module = torch.nn.LayerNorm(8)
    assert norm.kernel(torch.device("cpu"), torch.bfloat16) is None
    x, residual = torch.randn(2, 8), torch.randn(2, 8)
    expected = module(x + residual)
    assert torch.equal(norm.add_norm(module)(x.clone(), residual), expected)
    up = torch.nn.Linear(8, 6)
    torch.testing.assert_close(prepared([up], "gelu")(x), functional.gelu(up(x)))
