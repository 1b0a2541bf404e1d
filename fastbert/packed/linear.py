"""Linear maps, each in the form in which its device and precision multiply fastest.

On CPUs oneDNN is a third faster than the library behind `torch.nn.functional.linear` on many
processors, once the weight is laid out for it, and applies the activation while the result is
still in the cache. On GPUs the product applies GELU, too, by its approximation, whose error is far
below what 16 bits resolve. These are the operators that `torch.compile` emits; they are called here
directly, because a compiler on every worker is much to ask for.

Letters: N tokens, K inputs, M outputs.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

#: (N, K) -> (N, M)
Map = Callable[[torch.Tensor], torch.Tensor]

#: Activations that oneDNN fuses, by their name in Hugging Face: (operation, algorithm).
_FUSED = {"gelu": ("gelu", "none"), "relu": ("relu", ""), "tanh": ("tanh", "")}

#: Rows of the products that are tried before 8-bit ones are trusted.
_PROBES = 64


def prepared(maps: list[nn.Linear], activation: str | None = None, int8: bool = False) -> Map:
    """One map that gives the outputs of `maps`, side by side, with `activation` applied to them.

    With `int8` weights are quantised per output and inputs per token, so that a token's result does
    not depend on the others; inputs and outputs stay float32. The linear maps need not be kept.
    """
    weight = torch.cat([part.weight.detach() for part in maps])  # (M, K)
    bias = torch.cat(
        [
            weight.new_zeros(len(part.weight)) if part.bias is None else part.bias.detach()
            for part in maps
        ]
    )
    if int8:
        return _then(_quantised(weight, bias), activation)
    if activation == "gelu" and _applies_gelu(weight.device, weight.dtype):
        turned, multiply_gelu = weight.t(), torch.ops.aten._addmm_activation
        return lambda x: multiply_gelu(bias, x, turned, use_gelu=True)
    packed = _packed(weight)
    if packed is None:
        return _then(lambda x: functional.linear(x, weight, bias), activation)
    operation, algorithm = _FUSED.get(activation or "", ("none", ""))
    multiply = torch.ops.mkldnn._linear_pointwise
    unfused = None if activation in _FUSED else activation
    return _then(lambda x: multiply(x, packed, bias, operation, [], algorithm), unfused)


@cache
def _applies_gelu(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products there apply it, tried once; in float32 its approximation would be seen."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    x = torch.linspace(-3, 3, 64, device=device).to(dtype)
    same, none = torch.eye(64, dtype=dtype, device=device), torch.zeros_like(x)
    try:
        found = torch.ops.aten._addmm_activation(none, x[None], same, use_gelu=True)[0]
    except (AttributeError, RuntimeError):  # another torch
        return False
    return bool(torch.allclose(found.float(), functional.gelu(x.float()), atol=0.02))


def _packed(weight: torch.Tensor) -> torch.Tensor | None:
    """The weight as oneDNN wants it; None where it cannot multiply it."""
    on_cpu = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    if not on_cpu or not torch.backends.mkldnn.is_available():
        return None
    try:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    except RuntimeError:  # bf16 on a processor without AVX-512
        return None
    return packed


def _quantised(weight: torch.Tensor, bias: torch.Tensor) -> Map:
    """x (N, K) -> (N, M) by 8-bit weights, and inputs of 2 * levels + 1 values a token."""
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


def _then(first: Map, activation: str | None) -> Map:
    if activation is None:
        return first
    function = ACT2FN[activation]
    return lambda x: function(first(x))
