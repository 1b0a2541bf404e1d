"""Architectures of encoders, one file each; a table maps model types to them."""

from transformers import PreTrainedConfig

from fastbert.encoders.bert import Bert
from fastbert.encoders.deberta import Deberta
from fastbert.encoders.encoder import Encoder
from fastbert.encoders.modernbert import ModernBert
from fastbert.errors import InputError

ENCODERS: dict[str, type[Encoder]] = {
    model_type: encoder
    for encoder in (Bert, Deberta, ModernBert)
    for model_type in encoder.model_types
}


def check_family(model_type: object) -> None:
    """Raises InputError for a backbone type without an encoder."""
    if model_type not in list(ENCODERS):
        raise InputError(
            f"backbone of type '{model_type}' is not supported; "
            f"use one of these families: {', '.join(ENCODERS)}"
        )


def encoder_for(config: PreTrainedConfig) -> Encoder:
    """The encoder for a backbone's configuration; raises InputError if there is none, and for
    invalid sizes."""
    check_family(config.model_type)
    if getattr(config, "is_decoder", False):
        raise InputError("the backbone is configured as a decoder; FastBERT needs an encoder")
    return ENCODERS[config.model_type](config)
