"""Linear maps of 8-bit floating-point numbers, on GPUs from Hopper on.

The numbers are e4m3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"). Weights have a
scale per output and inputs one per token, which maps their largest number to the format's largest,
so that a token's result does not depend on others. Inputs and outputs are bf16.

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
#: Lower bound of a token's largest number.
LEAST = 1e-12

#: Least inputs and outputs of a map for which faster products outweigh quantising.
_LEAST_SIZE = 256
#: Divisor of their numbers.
_MULTIPLE = 16

#: x (N, K), and whether GELU is applied first, to numbers in 8 bits (N, K) and scales (N, 1).
Quantise = Callable[[torch.Tensor, bool], tuple[torch.Tensor, torch.Tensor]]


def pays(weight: torch.Tensor) -> bool:
    """Whether to multiply a map with this weight (M, K) in 8 bits."""
    return all(size >= _LEAST_SIZE and size % _MULTIPLE == 0 for size in weight.shape)


def scaled(weight: torch.Tensor, bias: torch.Tensor, gelu: bool = False) -> Map:
    """The map with this weight (M, K) and bias (M,), applied to x (N, K) or its GELU."""
    factors, scales = quantise(weight, False)
    turned, scales = factors.t(), scales.t()
    multiply, narrow = _product(), _kernel(weight.device) or quantise

    def map(x: torch.Tensor) -> torch.Tensor:
        rounded, steps = narrow(x, gelu)
        return multiply(rounded, turned, steps, scales, bias)

    return map


def quantise(x: torch.Tensor, gelu: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A `Quantise` in plain torch."""
    numbers = functional.gelu(x.float()) if gelu else x.float()
    steps = numbers.abs().amax(1, keepdim=True).clamp_min(LEAST) / LARGEST
    return (numbers / steps).to(DTYPE), steps


@cache
def _kernel(device: torch.device) -> Quantise | None:
    """A `Quantise` in one pass over memory, if that works on this device, tried once; or None."""
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
    """Factors (N, K) and (K, M), their scales (N, 1) and (1, M), and a bias (M,) to (N, M): by
    torch's operator, or, in releases before it was public, by the private one."""
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
