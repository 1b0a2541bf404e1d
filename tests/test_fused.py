"""Kernels for GPUs, on a CPU by Triton's interpreter (conftest.py), against float64."""

import os
import subprocess
import sys

import pytest
import torch
from support import ROOT
from torch.nn import functional

from fastbert.packed import fp8, norm
from fastbert.packed.linear import prepared

pytest.importorskip("triton", reason="its kernels are not tested where there is no Triton")
from fastbert.packed.fused import add_norm, quantise  # noqa: E402


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


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("width", [48, 97])
def test_numbers_are_scaled_by_token(width, gelu):
    """Before they are rounded: of that, Triton's interpreter loses the carry."""
    x = torch.randn(5, width, generator=torch.Generator().manual_seed(width)).to(torch.bfloat16)
    x[3] = 0
    found, steps = quantise(x, gelu, torch.float32, 448.0, 1e-12)
    expected = functional.gelu(x.double()) if gelu else x.double()
    torch.testing.assert_close(found.double() * steps, expected, atol=1e-6, rtol=1e-6)
    largest = found.abs().amax(1)
    torch.testing.assert_close(largest[:3], torch.full((3,), 448.0))
    assert not largest[3]
    assert (steps > 0).all()


@pytest.mark.parametrize("gelu", [False, True])
def test_rounded_numbers_are_the_plain_ones(gelu):
    x = torch.randn(5, 97, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    (found, steps), (plain, own) = (
        quantise(x, gelu, fp8.DTYPE, fp8.LARGEST, fp8.LEAST),
        fp8.quantise(x, gelu),
    )
    torch.testing.assert_close(steps, own)
    assert found.dtype == plain.dtype == fp8.DTYPE
    same = found.float() == plain.float()
    assert same.float().mean() > 0.95  # a carry again
    assert same.sum(1).min() > 80


def test_a_card_would_compile_them():
    """The interpreter runs what Triton's compiler refuses: as far as it comes without a card."""
    program = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from fastbert.packed.fused import _add_norm, _quantise

half = dict.fromkeys(("x", "residual", "weight", "bias", "out"), "*bf16")
steps = {"x": "*bf16", "out": "*fp8e4nv", "steps": "*fp32"}
numbers = {"width": "i32", "largest": "fp32", "least": "fp32"}
for kernel, signature, constants in (
    (_add_norm, half | {"width": "i32", "eps": "fp32"}, {"block": 1024}),
    (_quantise, steps | numbers, {"gelu": True, "block": 4096}),
):
    signature |= dict.fromkeys(constants, "constexpr")
    triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
"""
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_none_on_a_cpu():
    module = torch.nn.LayerNorm(8)
    assert norm.kernel(torch.device("cpu"), torch.bfloat16) is None
    x, residual = torch.randn(2, 8), torch.randn(2, 8)
    expected = module(x + residual)
    assert torch.equal(norm.add_norm(module)(x.clone(), residual), expected)
    up = torch.nn.Linear(8, 6)
    torch.testing.assert_close(prepared([up], "gelu")(x), functional.gelu(up(x)))
