"""Linear maps of 8-bit whole numbers, on CPUs.

Weights are quantised per output and inputs per token, so that a token's result does not depend on
the others; inputs and outputs stay float32.

Letters: N tokens, K inputs, M outputs.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional

#: (N, K) -> (N, M)
Map = Callable[[torch.Tensor], torch.Tensor]

#: Rows of the products that are tried before 8-bit ones are trusted.
_PROBES = 64


def quantised(weight: torch.Tensor, bias: torch.Tensor) -> Map:
    """The map with this weight (M, K) and bias (M,); inputs take 2 * levels + 1 values."""
    scales = (weight.abs().amax(1) / 127).clamp_min(1e-12)  # (M,)
    rounded = (weight / scales[:, None]).round()  # (M, K), -127 to 127
    levels = _exact_levels(*weight.shape)
    if levels is None:
        levels, product = 127, _float_product(rounded, scales, 127)
    else:
        product = _integer_product(rounded, scales, levels)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        steps = (x.abs().amax(1, keepdim=True) / levels).clamp_min(1e-30)  # (N, 1)
        # Shifted to be positive, and by a half to be rounded by the cut: 1 to 2 * levels + 1.
        quantised = (x * steps.reciprocal()).add_(levels + 1.5).to(torch.uint8)
        return torch.addcmul(bias, product(quantised), steps)

    return multiply


def _integer_product(rounded: torch.Tensor, scales: torch.Tensor, levels: int) -> Map:
    """oneDNN's product of inputs shifted by `levels` + 1, uint8 (N, K), and 8-bit weights."""
    packed = torch.ops.onednn.qlinear_prepack(rounded.to(torch.int8), None)
    zeros = torch.zeros(len(rounded), dtype=torch.long)
    multiply = torch.ops.onednn.qlinear_pointwise
    output: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")  # unscaled, and nothing fused
    return lambda x: multiply(x, 1.0, levels + 1, packed, scales, zeros, None, *output)


def _float_product(rounded: torch.Tensor, scales: torch.Tensor, levels: int) -> Map:
    """The same in float32, where whole numbers up to 2^24 are exact."""
    return lambda x: functional.linear(x.float() - (levels + 1), rounded) * scales


@cache
def _exact_levels(outputs: int, inputs: int) -> int | None:
    """How far inputs may go from 0 for products of this size to be exact here; None: no way.

    Without VNNI processors add pairs of products in 16 bits, which saturate: there it is 63. Which
    instructions oneDNN takes is its own affair, so the largest products are tried.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (outputs, inputs), generator=generator).float()
    weight[0], weight[-1] = 127, -127
    for levels in (127, 63):
        x = torch.randint(-levels, levels + 1, (_PROBES, inputs), generator=generator).float()
        x[0], x[-1] = levels, -levels
        shifted, ones = (x + levels + 1).to(torch.uint8), torch.ones(outputs)
        expected = x.double() @ weight.double().T
        try:
            found = _integer_product(weight, ones, levels)(shifted)
        except (AttributeError, RuntimeError):  # another torch, or one without oneDNN
            return None
        if torch.allclose(found.double(), expected, rtol=1e-6, atol=0):
            return levels
    return None
