"""Checks of sizes and weights for all families of encoders."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from fastbert.errors import InputError, check_settings

#: float16's largest number: no usable model has larger weights.
_LARGEST = torch.finfo(torch.float16).max


def check_shape(
    config: PreTrainedConfig, sizes: Iterable[str], activations: Iterable[str], epsilon: str
) -> None:
    """Raises InputError unless the settings named `sizes` are whole numbers from 1 on, those named
    `activations` are known, the norms' `epsilon` is small, heads divide the hidden size and the
    padding id, if there is one, is a token."""
    found = [(name, getattr(config, name, None)) for name in sizes]
    check_settings(
        config.model_type,
        [(name, n, type(n) is int and n > 0, "a whole number from 1 on") for name, n in found],
    )
    width, heads, limit = config.hidden_size, config.num_attention_heads, config.vocab_size
    small, padding = getattr(config, epsilon, 1e-12), config.pad_token_id
    padded = padding is None or (type(padding) is int and 0 <= padding < limit)
    known = [(name, getattr(config, name, None)) for name in activations]
    advice = "an activation that transformers knows, such as 'gelu'"
    check_settings(config.model_type, [
        ("hidden_size", width, width % heads == 0, f"a multiple of its {heads} attention heads"),
        *((name, value, value in ACT2FN, advice) for name, value in known),
        (epsilon, small, 0 < small < 1, "a number above 0 and below 1"),
        ("pad_token_id", padding, padded, f"a number from 0 to {limit - 1}"),
    ])  # fmt: skip


def beyond(model: nn.Module, limit: float = math.inf) -> str | None:
    """The name of a tensor with NaN, or with an absolute value of at least `limit`, if there is
    one."""
    for name, tensor in model.state_dict().items():
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and not (torch.stack(tensor.aminmax()).abs() < limit).all()
        ):
            return name
    return None


def check_reach(model: nn.Module) -> None:
    """Raises InputError for weights that are not finite, or so large that sums may overflow, which
    8-bit integers would hide."""
    if name := beyond(model, _LARGEST):
        raise InputError(
            f"'{name}' holds NaN or numbers from {_LARGEST:,.0f} on, which 8 bits would hide; "
            "train, distil or convert the model again, or use another precision"
        )
