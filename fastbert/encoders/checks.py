"""Sizes that no encoder can have, whatever its family."""

from collections.abc import Iterable

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from fastbert.errors import check_settings


def check_shape(
    config: PreTrainedConfig, sizes: Iterable[str], activations: Iterable[str], epsilon: str
) -> None:
    """Raises InputError unless the settings called `sizes` are whole numbers from 1 on, those
    called `activations` are known, the norms' `epsilon` is small, heads divide the hidden size and
    the padding id, if there is one, is a token."""
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
