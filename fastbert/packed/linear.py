"""Linear maps in the fastest form for device and precision.

On many CPUs oneDNN, with the weight in its layout, is a third faster than the library behind
`torch.nn.functional.linear`, and applies the activation while the result is still in the cache. On
GPUs the product also applies GELU, by its approximation, with an error below 5e-4. These are the
operators that `torch.compile` emits; they are called directly, to avoid a compiler on every worker.

Letters: N tokens, K inputs, M outputs.
"""

from functools import cache

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from fastbert.packed import fp8, int8
from fastbert.packed.int8 import Map
from fastbert.packed.trial import agreed, for_gpus, tried

#: Activations that oneDNN fuses, by their names in Hugging Face: (operation, algorithm).
FUSED = {"gelu": ("gelu", "none"), "relu": ("relu", ""), "tanh": ("tanh", "")}


def prepared(
    maps: list[nn.Linear], activation: str | None = None, factors: torch.dtype | None = None
) -> Map:
    """One map with the outputs of `maps` side by side, and `activation` applied to them.

    `factors`: the dtype of the factors, if not that of the maps: `torch.int8` or
    `torch.float8_e4m3fn`, where that pays. The linear maps need not be kept.
    """
    weight, bias = side_by_side(maps)
    if factors == torch.int8:
        return _then(int8.quantised(weight, bias), activation)
    if factors == fp8.DTYPE and fp8.pays(weight):
        return _then(fp8.scaled(weight, bias), activation)
    if activation == "gelu" and _applies_gelu(weight.device, weight.dtype):
        turned, multiply_gelu = weight.t(), torch.ops.aten._addmm_activation
        return lambda x: multiply_gelu(bias, x, turned, use_gelu=True)
    packed = _packed(weight)
    if packed is None:
        return _then(lambda x: functional.linear(x, weight, bias), activation)
    operation, algorithm = FUSED.get(activation or "", ("none", ""))
    multiply = torch.ops.mkldnn._linear_pointwise
    unfused = None if activation in FUSED else activation
    return _then(lambda x: multiply(x, packed, bias, operation, [], algorithm), unfused)


def block(
    up: nn.Linear, activation: str, down: nn.Linear, factors: torch.dtype | None = None
) -> Map:
    """`down` of the activation of `up`; otherwise as `prepared`."""
    last = side_by_side([down])
    if factors == fp8.DTYPE and activation == "gelu" and fp8.pays(last[0]):
        first, second = prepared([up], None, factors), fp8.scaled(*last, gelu=True)
    else:
        first, second = prepared([up], activation, factors), prepared([down], None, factors)
    return lambda x: second(first(x))


def side_by_side(maps: list[nn.Linear]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (M, K), and biases (M,), zeros if missing, of maps of the same inputs."""
    weight = torch.cat([part.weight.detach() for part in maps])
    biases = [
        weight.new_zeros(len(part.weight)) if part.bias is None else part.bias.detach()
        for part in maps
    ]
    return weight, torch.cat(biases)


@cache
def _applies_gelu(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products on this device apply it, tried once; not in float32, where the approximation
    would matter."""
    if not for_gpus(device, dtype):
        return False
    x = torch.linspace(-3, 3, 64, device=device).to(dtype)
    same, none = torch.eye(64, dtype=dtype, device=device), torch.zeros_like(x)
    what = "torch's product with GELU"
    with tried(what):
        found = torch.ops.aten._addmm_activation(none, x[None], same, use_gelu=True)[0]
        return agreed(what, torch.allclose(found.float(), functional.gelu(x.float()), atol=0.02))
    return False


def _packed(weight: torch.Tensor) -> torch.Tensor | None:
    """The weight in oneDNN's layout; None if oneDNN cannot multiply it."""
    on_cpu = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    if not on_cpu or not torch.backends.mkldnn.is_available():
        return None
    try:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    except RuntimeError:  # bf16 on a processor without AVX-512
        return None
    return packed


def _then(first: Map, activation: str | None) -> Map:
    if activation is None:
        return first
    function = ACT2FN[activation]
    return lambda x: function(first(x))
