"""Kernels of one pass over memory, in Triton, which comes with torch on GPUs.

Letters: P tokens, H hidden size.
"""

import torch
import triton
from triton import language as tl


# The compiler supports no annotations except its own.
@triton.jit  # type: ignore[untyped-decorator]
def _add_norm(x, residual, weight, bias, out, width, eps, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """One token: in float32, for any dtype."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, block)
    inside = column < width
    total = tl.load(x + row + column, mask=inside, other=0).to(tl.float32)
    total += tl.load(residual + row + column, mask=inside, other=0).to(tl.float32)
    apart = tl.where(inside, total - tl.sum(total, 0) / width, 0)
    normed = apart * tl.rsqrt(tl.sum(apart * apart, 0) / width + eps)
    scaled = normed * tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    scaled += tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    tl.store(out + row + column, scaled.to(out.dtype.element_ty), mask=inside)


def add_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """LayerNorm(x + residual) of (P, H), contiguous."""
    out = torch.empty_like(x)
    block = triton.next_power_of_2(x.shape[1])
    _add_norm[(len(x),)](x, residual, weight, bias, out, x.shape[1], eps, block=block, num_warps=4)
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _quantise(  # type: ignore[no-untyped-def]
    x, out, steps, width, largest, least, gelu: tl.constexpr, block: tl.constexpr
):
    """One token: in float32 before rounding."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    numbers = tl.load(x + token * width + column, mask=inside, other=0).to(tl.float32)
    if gelu:
        numbers = 0.5 * numbers * (1 + tl.erf(numbers * 0.7071067811865476))
    step = tl.maximum(tl.max(tl.abs(numbers), 0), least) / largest
    tl.store(steps + token, step)
    rounded = (numbers / step).to(out.dtype.element_ty)
    tl.store(out + token * width + column, rounded, mask=inside)


def quantise(
    x: torch.Tensor, gelu: bool, dtype: torch.dtype, largest: float, least: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, or its GELU, (P, H), contiguous, divided by a step for each token, and these steps (P, 1),
    by which its largest number, at least `least`, becomes `largest`."""
    out = torch.empty_like(x, dtype=dtype)
    steps = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(x.shape[1])
    numbers = x.shape[1], largest, least
    _quantise[(len(x),)](x, out, steps, *numbers, gelu=gelu, block=block, num_warps=8)
    return out, steps
