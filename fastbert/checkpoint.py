"""Checkpoints: a Hugging Face model directory on any file system, and its fingerprint.

Weights are safetensors only; nothing in a checkpoint is unpickled or executed.
"""

import hashlib
import json
import logging
import os
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from fastbert.cache import local_copy
from fastbert.configuration import FastBertConfig
from fastbert.errors import InputError, explained
from fastbert.filesystem import open_url, reaching, redacted

log = logging.getLogger(__name__)

#: Settings that do not change what a layer answers: decisions taken later, and where files lay.
_NOT_FINGERPRINTED = {
    "operating_points",
    "default_operating_point",
    "transformers_version",
    "is_local",
    "local_files_only",
    "name_or_path",
}


def store_operating_point(url: str, name: str, settings: dict[str, Any]) -> None:
    """Make it the default one of the checkpoint at `url`: in one step, and every other setting of
    config.json stays, for whatever they are, labels may depend on them."""
    fs, path = open_url(url)
    target = f"{path}/config.json"
    with reaching(f"cannot store the operating point in '{redacted(url)}'", "make it writable"):
        config: dict[str, Any] = json.loads(fs.cat_file(target))
        config["operating_points"] = (config.get("operating_points") or {}) | {name: settings}
        config["default_operating_point"] = name
        text = (json.dumps(config, indent=2) + "\n").encode()
        if isinstance(fs, LocalFileSystem):
            with tempfile.NamedTemporaryFile(dir=path, suffix=".partial", delete=False) as file:
                file.write(text)
            os.chmod(file.name, os.stat(target).st_mode)
            os.replace(file.name, target)
        else:
            fs.pipe_file(target, text)


def fetch_checkpoint(url: str, expected: str | None = None, weights: bool = True) -> Path:
    """A local directory with the checkpoint at `url`; remote ones are downloaded once a version,
    without `weights` only the rest of it.

    Raises InputError if there is none, and if its fingerprint is not the `expected` one.
    """
    fs, path = open_url(url)
    place = f"the checkpoint at '{redacted(url)}'"

    def files() -> list[str]:
        fs.invalidate_cache()
        try:  # the files of the hub's cache are links
            found = fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            found = []
        names = sorted(each["name"] for each in found if each["type"] != "directory")
        if not any(name.endswith("/config.json") for name in names):
            raise InputError(
                f"no checkpoint at '{redacted(url)}': expected a directory with config.json and "
                "model.safetensors, as fastbert train and fastbert distill write it"
            )
        return [name for name in names if weights or not name.endswith(".safetensors")]

    with reaching(f"cannot read {place}", "pass one that this user may read"):
        if isinstance(fs, LocalFileSystem):
            files()
            folder = Path(path)
        else:
            folder = local_copy(fs, files, place)
    if expected is not None and (found := fingerprint(folder, weights)) != expected:
        raise InputError(
            f"{place} has changed since the run began (it has the fingerprint {found[:8]}, "
            f"expected {expected[:8]}); what is committed is kept: put the old one back and run "
            "again, or label all with the new one by --relabel"
        )
    return folder


def load_config(folder: Path) -> FastBertConfig:
    """The configuration of the checkpoint in `folder`; InputError if it is not a FastBERT's, or has
    settings that none can have."""
    with _readable(folder / "config.json", Exception):
        model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    if model_type != "fastbert":
        raise InputError(
            f"the checkpoint in {folder} has model_type '{model_type}', expected 'fastbert'; "
            "turn a Hugging Face classifier into one with fastbert distill"
        )
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"the checkpoint in {folder} has no .safetensors weights; save it again")
    with _readable(folder / "config.json", Exception):
        config: FastBertConfig = FastBertConfig.from_pretrained(folder)
        config.check()
    return config


def load_tokenizer(place: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside the weights, in a folder or on the hub.

    Raises InputError if there is none: Hugging Face makes one that knows no words then.
    """
    advice = "save it beside the weights, by its save_pretrained"
    # The tokenizers library raises nothing more exact.
    with explained(f"no tokenizer in {place}", advice, Exception):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place, trust_remote_code=False
        )
        special = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
        words = tokenizer.get_vocab().keys() - special
    if not words:
        raise InputError(f"no tokenizer in {place}: only special tokens are known; {advice}")
    tokenizer.padding_side = "right"  # heads read the first token
    return tokenizer


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedConfig,
    pairs: bool = False,
    trained: bool = False,
) -> None:
    """Raises InputError if the tokens are not the model's, whose backbone's configuration is given.

    With `pairs` for pairs of texts, with `trained` for training, which pads. A vocabulary that is
    far smaller than the model's is told in a warning.
    """
    advice = "pass the tokenizer that the model was trained with"
    vocabulary, rows = tokenizer.get_vocab(), model.vocab_size
    last = max(vocabulary, key=lambda token: vocabulary[token])
    if vocabulary[last] >= rows:
        raise InputError(
            f"the tokenizer has the token '{last}' with id {vocabulary[last]}, the model has "
            f"{rows} embeddings; {advice}, or resize and train the embeddings"
        )
    if len(vocabulary) < rows / 2:
        log.warning(
            "the tokenizer has %d tokens, the model embeddings of %d: is it the model's own?",
            *(len(vocabulary), rows),
        )
    if trained and tokenizer.pad_token_id is None:
        raise InputError("the tokenizer has no padding token, which training needs; set pad_token")
    texts = ["a", "\U0001f469"]
    with explained("the tokenizer cannot be used", advice, Exception):
        encoded = tokenizer(texts, texts if pairs else None, return_token_type_ids=True)
    types = getattr(model, "type_vocab_size", None)
    found = max(map(max, encoded["token_type_ids"])) if pairs else 0
    if types is not None and found >= types:
        raise InputError(
            f"the tokenizer gives tokens of a pair's second text the type {found}, the model has "
            f"{types} type; {advice}, or one text a row"
        )


def check_room(tokenizer: PreTrainedTokenizerBase, length: int, pairs: bool = False) -> None:
    """Raises InputError if so many tokens leave none for a text, or for each text of a pair."""
    special = tokenizer.num_special_tokens_to_add(pair=pairs)
    if length < (least := special + 1 + pairs):
        raise InputError(
            f"a --max-length of {length} has no room for {'pairs of texts' if pairs else 'a text'} "
            f"beside {special} special tokens; expected at least {least}, when the checkpoint is "
            "made"
        )


def is_part(name: str, weights: bool = True) -> bool:
    """Whether a file of this name belongs to a checkpoint, or to it without its weights."""
    if name.endswith(".safetensors"):
        return weights
    return name.startswith(
        ("config.json", "tokenizer", "vocab", "merges", "sentencepiece", "spiece")
    )


def fingerprint(folder: Path, weights: bool = True) -> str:
    """SHA-256 over everything in `folder` that decides which label a text gets; without weights,
    which tokens it gets.

    Raises InputError if a file of settings is not JSON.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not is_part(path.name, weights):
            continue
        digest.update(f"{path.name}\0".encode())
        if path.name in ("config.json", "tokenizer_config.json"):
            with _readable(path, ValueError, AttributeError, RecursionError):
                settings = json.loads(path.read_text()).items()
            kept = {k: v for k, v in settings if k not in _NOT_FINGERPRINTED}
            digest.update(json.dumps(kept, sort_keys=True).encode())
            continue
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _readable(what: object, *kinds: type[Exception]) -> AbstractContextManager[None]:
    return explained(f"{what} cannot be read", "save the checkpoint again", *kinds)
