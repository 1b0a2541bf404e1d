"""The conversion job: an official checkpoint in, a checkpoint of this project out."""

from pathlib import Path
from typing import Any

from fastbert.errors import InputError
from fastbert.official import from_official, read_official, tokenizer_of
from fastbert.weights import check_output, save_checkpoint
from pipelines.checkpoints.settings import ConvertSettings
from pipelines.checkpoints.students import check_length


def convert(settings: ConvertSettings) -> dict[str, Any]:
    """Convert and save. Returns the summary; raises InputError if the parts do not fit."""
    check_output(settings.output)
    tokenizer = tokenizer_of(Path(settings.vocabulary))
    weights = read_official(Path(settings.checkpoint))
    model = from_official(weights, list(settings.label), settings.heads, settings.max_length)
    backbone = model.config.backbone_config()
    if len(tokenizer) != backbone.vocab_size:
        raise InputError(
            f"{settings.vocabulary} has {len(tokenizer)} tokens, the checkpoint was trained with "
            f"{backbone.vocab_size}; pass the vocabulary that it was trained with"
        )
    check_length(model, tokenizer, settings.max_length)
    save_checkpoint(model, tokenizer, settings.output)
    return {
        "output": settings.output,
        "classes": model.config.label_names,
        "layers": model.encoder.depth,
        "hidden_size": backbone.hidden_size,
    }
