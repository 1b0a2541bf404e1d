"""Models from checkpoints, and checkpoints from models. Only safetensors are read."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fastbert.checkpoint import load_config
from fastbert.errors import FastBertError, InputError, explained, first_line
from fastbert.filesystem import open_url, redacted
from fastbert.model import FastBertForSequenceClassification


def save_checkpoint(
    model: FastBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, url: str
) -> None:
    """Write model and tokenizer as a directory at `url` (any fsspec URL).

    Raises FastBertError if that cannot be written; what took hours lies in a local folder then.
    """
    folder = tempfile.mkdtemp(prefix="checkpoint-")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    try:
        _put(folder, url)
    except Exception as error:
        raise FastBertError(
            f"cannot write '{redacted(url)}': {first_line(error)}; the checkpoint is kept in "
            f"{folder}: copy it from there, config.json last"
        ) from error
    shutil.rmtree(folder)


def _put(folder: str, url: str) -> None:
    fs, path = open_url(url)
    fs.makedirs(path, exist_ok=True)
    # A directory without configuration is not taken for a checkpoint: an old one goes first,
    # the new one comes last.
    if fs.exists(f"{path}/config.json"):
        fs.rm_file(f"{path}/config.json")
    names = sorted(os.listdir(folder), key=lambda name: name == "config.json")
    for name in names:
        fs.put_file(os.path.join(folder, name), f"{path}/{name}")


def load_model(folder: Path) -> FastBertForSequenceClassification:
    """Configuration and weights of the checkpoint in `folder`, in eval mode, float32."""
    load_config(folder)
    unfit = f"the weights in {folder} do not fit its config.json"
    again = "save the checkpoint again"
    with (
        explained(f"the weights in {folder} cannot be read", again, OSError, SafetensorError),
        explained(unfit, again, RuntimeError),  # tensors of other shapes
    ):
        loaded: Any = FastBertForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype="float32"
        )
    model: FastBertForSequenceClassification
    model, report = loaded
    if strange := [*sorted(report["missing_keys"]), *sorted(report["unexpected_keys"])]:
        raise InputError(
            f"{unfit}: {len(strange)} tensors are missing or unknown, the first is {strange[0]}; "
            f"{again}"
        )
    model.eval()
    return model


def load_classifier(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Hugging Face sequence classifier (hub id or directory) and its tokenizer."""
    advice = (
        "pass a Hugging Face model id or a directory with config.json, safetensors weights and a "
        "tokenizer"
    )
    with explained(f"cannot load the classifier '{name}'", advice, OSError, ValueError):
        model = AutoModelForSequenceClassification.from_pretrained(
            name, use_safetensors=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(name)
    if isinstance(model, FastBertForSequenceClassification):
        raise InputError(f"'{name}' is a FastBERT checkpoint already")
    return model, tokenizer
