"""Linear maps of 8-bit floating-point numbers, on GPUs from Hopper on.

The numbers are e4m3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"). Weights have a
scale per output and inputs one per token, by which their largest is the format's largest, so that
a token's result does not depend on the others. Inputs and outputs are bf16.

Letters: N tokens, K inputs, M outputs.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch.nn import functional

from fastbert.packed.int8 import Map
from fastbert.packed.trial import agreed, tried

DTYPE = torch.float8_e4m3fn
LARGEST: float = torch.finfo(DTYPE).max
#: What a token's largest number is taken to be at least.
LEAST = 1e-12

#: Inputs and outputs that a map has at least, for faster products to be worth the quantising.
_LEAST_SIZE = 256
#: What they are multiples of.
_MULTIPLE = 16

#: x (N, K), and whether GELU is applied before, to numbers in 8 bits (N, K) and scales (N, 1).
Quantise = Callable[[torch.Tensor, bool], tuple[torch.Tensor, torch.Tensor]]


def pays(weight: torch.Tensor) -> bool:
    """Whether a map with this weight (M, K) is to be multiplied so."""
    return all(size >= _LEAST_SIZE and size % _MULTIPLE == 0 for size in weight.shape)


def scaled(weight: torch.Tensor, bias: torch.Tensor, gelu: bool = False) -> Map:
    """The map with this weight (M, K) and bias (M,), of x (N, K), or of the GELU of that."""
    factors, scales = quantise(weight, False)
    turned, scales = factors.t(), scales.t()
    multiply, narrow = _product(), _kernel(weight.device) or quantise

    def map(x: torch.Tensor) -> torch.Tensor:
        rounded, steps = narrow(x, gelu)
        return multiply(rounded, turned, steps, scales, bias)

    return map


def quantise(x: torch.Tensor, gelu: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain way, of a `Quantise`."""
    numbers = functional.gelu(x.float()) if gelu else x.float()
    steps = numbers.abs().amax(1, keepdim=True).clamp_min(LEAST) / LARGEST
    return (numbers / steps).to(DTYPE), steps


@cache
def _kernel(device: torch.device) -> Quantise | None:
    """One pass over memory, where that works there, tried once; None elsewhere."""
    if device.type != "cuda":
        return None
    x = torch.linspace(-3, 3, 48, device=device).view(2, 24).to(torch.bfloat16)
    what = "Triton's kernel for 8-bit numbers"
    with tried(what):
        from fastbert.packed.fused import quantise as in_one_pass

        fused = partial(in_one_pass, dtype=DTYPE, largest=LARGEST, least=LEAST)
        rounded, steps = fused(x, True)
        expected = functional.gelu(x.float())
        if agreed(what, torch.allclose(rounded.float() * steps, expected, atol=0.2)):
            return fused
    return None


@cache
def _product() -> Callable[..., torch.Tensor]:
    """Factors (N, K) and (K, M), their scales (N, 1) and (1, M), and a bias (M,) to (N, M): by the
    operator that torch has for it, or, before that was public, by the private one."""
    public: Any = getattr(functional, "scaled_mm", None)
    options: dict[str, Any] = {"use_fast_accum": True}
    if public is None:
        return lambda x, y, a, b, bias: torch._scaled_mm(
            x, y, a, b, bias=bias, out_dtype=torch.bfloat16, **options
        )
    row = functional.ScalingType.RowWise
    return lambda x, y, a, b, bias: public(
        x, y, a, row, b, row, bias=bias, output_dtype=torch.bfloat16, **options
    )
