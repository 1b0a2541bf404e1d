"""Architectures of encoders, one file each; this table names them by their model type."""

from transformers import PreTrainedConfig

from fastbert.encoders.bert import Bert
from fastbert.encoders.encoder import Encoder
from fastbert.errors import InputError

ENCODERS: dict[str, type[Encoder]] = {
    model_type: encoder for encoder in (Bert,) for model_type in encoder.model_types
}


def encoder_for(config: PreTrainedConfig) -> Encoder:
    """The encoder for a backbone's configuration; InputError if there is none."""
    if config.model_type not in ENCODERS:
        raise InputError(
            f"backbone of type '{config.model_type}' is not supported; "
            f"use one of these families: {', '.join(ENCODERS)}"
        )
    if getattr(config, "is_decoder", False):
        raise InputError("the backbone is configured as a decoder; FastBERT needs an encoder")
    return ENCODERS[config.model_type](config)
