"""Models from checkpoints, and checkpoints from models. Only safetensors are read."""

import json
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fastbert.checkpoint import is_part
from fastbert.configuration import asked_of, label_names, load_config
from fastbert.encoders import encoder_for
from fastbert.encoders.adopt import own_heads
from fastbert.encoders.mixin import read_mixin
from fastbert.encoders.pretrained import load_weights, read_config, read_settings
from fastbert.errors import FastBertError, InputError, first_line
from fastbert.exits.question import Kind
from fastbert.filesystem import open_url, redacted
from fastbert.model import FastBertForSequenceClassification
from fastbert.tokenizer import check_room, check_tokenizer, load_tokenizer
from fastbert.writable import check_folder

log = logging.getLogger(__name__)

#: A file that exists while a checkpoint is saved: after an interruption, it marks the others as
#: ours.
_SAVING = "config.json.partial"
#: Files of other models beside their weights that a tokenizer or a loader would still read.
_REMAINS = ("special_tokens_map.json", "added_tokens.json", "model.safetensors.index.json")


def check_output(url: str) -> None:
    """Raises InputError if `url` cannot be written, or holds a model that is not a FastBERT
    checkpoint, such as the teacher itself, which saving would overwrite."""
    check_folder(url)
    fs, path = open_url(url)
    ours = any(fs.exists(f"{path}/{name}") for name in ("config.json", _SAVING))
    if not ours and (lost := _parts(fs, path)):
        raise InputError(
            f"--output is '{redacted(url)}', where {lost[0]} lies without a config.json: it would "
            "be lost; expected a new folder, or one with a FastBERT checkpoint"
        )
    for name in ("config.json", "adapter_config.json"):
        if not fs.exists(f"{path}/{name}"):
            continue
        found: Any = None
        with suppress(ValueError):
            found = json.loads(fs.cat_file(f"{path}/{name}"))
        kind = found.get("model_type") if isinstance(found, dict) else None
        if kind != "fastbert":
            raise InputError(
                f"--output is '{redacted(url)}', where another model lies ({name}, model_type "
                f"'{kind}'), which would be overwritten; expected a new folder, or one with a "
                "FastBERT checkpoint"
            )


def save_checkpoint(
    model: FastBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, url: str
) -> None:
    """Write model and tokenizer as a directory at `url` (any fsspec URL).

    Raises FastBertError if that fails; the checkpoint is then kept in a local folder.
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
    fs.put_file(os.path.join(folder, "config.json"), f"{path}/{_SAVING}")
    # A directory without config.json is not a checkpoint: remove the old one first, and write the
    # new one last.
    if fs.exists(f"{path}/config.json"):
        fs.rm_file(f"{path}/config.json")
    names = sorted(os.listdir(folder), key=lambda name: name == "config.json")
    for name in {*_parts(fs, path)} - {*names, _SAVING}:  # it would be read with the new files
        fs.rm_file(f"{path}/{name}")
    for name in names:
        mine, place = os.path.join(folder, name), f"{path}/{name}"
        if isinstance(fs, LocalFileSystem):
            # Replace the file: models loaded from the old one still read it.
            shutil.copyfile(mine, f"{place}.new")
            os.replace(f"{place}.new", place)
        else:
            fs.put_file(mine, place)
    fs.rm_file(f"{path}/{_SAVING}")


def _parts(fs: AbstractFileSystem, path: str) -> list[str]:
    """Names of the files there that saving a checkpoint replaces or removes."""
    found: list[dict[str, Any]] = []
    with suppress(FileNotFoundError):  # object stores have no empty folders
        found = fs.ls(path, detail=True)
    names = sorted(os.path.basename(each["name"]) for each in found if each["type"] != "directory")
    return [name for name in names if is_part(name) or name in _REMAINS]


def load_model(folder: Path) -> FastBertForSequenceClassification:
    """Configuration and weights of the checkpoint in `folder`, in eval mode, float32.

    Raises InputError as `load_weights` and `load_config`.
    """
    config = load_config(folder)
    model: FastBertForSequenceClassification
    model = load_weights(FastBertForSequenceClassification, folder, config)
    return model


def load_checkpoint(
    folder: Path, pairs: bool = False
) -> tuple[FastBertForSequenceClassification, PreTrainedTokenizerBase]:
    """Model and tokenizer of the checkpoint in `folder`; InputError if they do not fit, with
    `pairs` for pairs of texts."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    check_tokenizer(tokenizer, model.config.backbone_config(), pairs)
    check_room(tokenizer, model.config.max_length, pairs)
    return model, tokenizer


def load_classifier(
    name: str, pairs: bool = False, kind: Kind | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Hugging Face sequence classifier (hub id or directory), or a `Mixin`, and its tokenizer, as
    a teacher.

    Raises InputError as `load_weights`, `read_mixin`, `check_tokenizer` and `asked_of`, and for
    other families.
    """
    auto: Any = AutoModelForSequenceClassification
    options: dict[str, Any] = {}
    if mixin := read_mixin(name, read_settings("classifier", name)):
        auto, config, options = mixin.kind, mixin.config, {"questions": mixin.questions}
    else:
        config = read_config("classifier", name)
    if config.model_type == "fastbert":
        raise InputError(
            f"'{name}' is already a FastBERT checkpoint; label with it, add an exit before the "
            "first layer with --add-bag, or pass the classifier that it was made from"
        )
    encoder_for(config)
    model: PreTrainedModel = load_weights(auto, name, config, **options)
    tokenizer = load_tokenizer(name)
    check_tokenizer(tokenizer, config, pairs, trained=True)
    for own in own_heads(model):
        names = label_names(own.config, asked_of(own.config, kind).kind)
        numbers = own.config.label2id if isinstance(own.config.label2id, dict) else {}
        if moved := [n for k, n in enumerate(names) if str(numbers.get(n, k)) != str(k)]:
            log.warning(
                "label2id of '%s' contradicts its id2label, for example for '%s'; id2label is "
                "used, as in Hugging Face's pipeline",
                *(name, moved[0]),
            )
    return model, tokenizer
