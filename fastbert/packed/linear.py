"""Linear maps, each in the form in which its device and precision multiply fastest.

On CPUs oneDNN is a third faster than the library behind `torch.nn.functional.linear` on many
processors, once the weight is laid out for it, and applies the activation while the result is
still in the cache. These are the operators that `torch.compile` emits for CPUs; they are called
here directly, because a compiler on every worker is much to ask for.

Letters: N tokens, K inputs, M outputs.
"""

import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

#: (N, K) -> (N, M)
Map = Callable[[torch.Tensor], torch.Tensor]

#: Activations that oneDNN fuses, by their name in Hugging Face: (operation, algorithm).
_FUSED = {"gelu": ("gelu", "none"), "relu": ("relu", ""), "tanh": ("tanh", "")}


def prepared(maps: list[nn.Linear], activation: str | None = None, int8: bool = False) -> Map:
    """One map that gives the outputs of `maps`, side by side, with `activation` applied to them.

    With `int8` the weights are quantised per output, and the inputs per call as they come; inputs
    and outputs stay float32. The linear maps need not be kept.
    """
    weight = torch.cat([part.weight.detach() for part in maps])  # (M, K)
    bias = torch.cat([part.bias.detach() for part in maps])
    if int8:
        return _then(_quantised(weight, bias), activation)
    if not _onednn(weight):
        return _then(lambda x: functional.linear(x, weight, bias), activation)
    operation, algorithm = _FUSED.get(activation or "", ("none", ""))
    multiply = torch.ops.mkldnn._linear_pointwise
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    unfused = None if activation in _FUSED else activation
    return _then(lambda x: multiply(x, packed, bias, operation, [], algorithm), unfused)


def _onednn(weight: torch.Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    return on_cpu and torch.backends.mkldnn.is_available()


def _quantised(weight: torch.Tensor, bias: torch.Tensor) -> Map:
    scales = (weight.abs().amax(1) / 127).clamp_min(1e-12)
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():  # torch wants its users to move to another package
        warnings.simplefilter("ignore")
        int8 = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(int8, bias)
    # Sums of two products overflow 16 bits on processors without VNNI: one bit less there.
    reduce_range = not torch.cpu._is_vnni_supported()
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed, reduce_range)


def _then(first: Map, activation: str | None) -> Map:
    if activation is None:
        return first
    function = ACT2FN[activation]
    return lambda x: function(first(x))
