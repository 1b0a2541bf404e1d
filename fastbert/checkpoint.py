"""Checkpoints: a Hugging Face model directory on any file system, and its fingerprint.

Weights are safetensors only; nothing in a checkpoint is unpickled or executed.
"""

import hashlib
import itertools
import json
import os
import re
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from fastbert.cache import local_copy
from fastbert.errors import InputError, explained
from fastbert.filesystem import open_url, reaching, redacted

#: Files fetched from a model on the hub: weights, tokenizer and settings, no code.
_HUB_FILES = ["*.safetensors", "*.json", "vocab.txt", "merges.txt", "*.model"]
#: Settings that do not change a layer's answers: later decisions, and places of files.
_NOT_FINGERPRINTED = {
    "operating_points",
    "default_operating_point",
    "transformers_version",
    "is_local",
    "local_files_only",
    "name_or_path",
}


def store_operating_point(
    url: str, name: str, settings: dict[str, Any], default: bool = True
) -> tuple[str, str | None]:
    """Add a point to the checkpoint at `url` in one atomic step, by default as its default point.
    All other settings of config.json stay, because labels may depend on them. Returns its name, and
    that of the previous default.

    Existing points stay the same, because outputs may continue with them: if another point has
    `name`, a number is added.
    """
    fs, path = open_url(url)
    target = f"{path}/config.json"
    with reaching(f"cannot store the operating point in '{redacted(url)}'", "make it writable"):
        config: dict[str, Any] = json.loads(fs.cat_file(target))
        points, before = config.get("operating_points") or {}, config.get("default_operating_point")
        name = _free_name(points, name, settings)
        config["operating_points"] = points | {name: settings}
        if default:
            config["default_operating_point"] = name
        text = (json.dumps(config, indent=2) + "\n").encode()
        if isinstance(fs, LocalFileSystem):
            with tempfile.NamedTemporaryFile(dir=path, suffix=".partial", delete=False) as file:
                file.write(text)
            os.chmod(file.name, os.stat(target).st_mode)
            os.replace(file.name, target)
        else:
            fs.pipe_file(target, text)
    return name, before


def _free_name(points: dict[str, Any], name: str, settings: dict[str, Any]) -> str:
    """`name`, with a number if a different point has it."""
    numbered = (name if k == 1 else f"{name}-{k}" for k in itertools.count(1))
    return next(
        each for each in numbered if each not in points or _where(points[each]) == _where(settings)
    )


def _where(point: dict[str, Any]) -> list[Any]:
    """The settings of a point that decide where rows leave, for each of its questions."""
    names = ("criterion", "thresholds", "temperatures", "within", "exit_depths")
    each = point.get("questions") or {}
    return [*(point.get(name) for name in names), {k: _where(own) for k, own in each.items()}]


def is_hub_id(place: str) -> bool:
    """Whether a place is a model's id on the Hugging Face hub: `owner/name`, and no folder here."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", place)) and not os.path.exists(place)


def fetch_from_hub(name: str) -> Path:
    """A local folder with a model of the hub, from the cache of `huggingface_hub`; raises
    InputError if there is none. Uses HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE."""
    from huggingface_hub import snapshot_download  # only needed here
    from huggingface_hub.errors import HfHubHTTPError

    what = f"no checkpoint '{name}': it is neither a local folder nor available on the hub"
    advice = "expected a folder, a URL or the id of a model on the hub"
    with explained(what, advice, OSError, ValueError, HfHubHTTPError):
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))


def fetch_checkpoint(url: str, expected: str | None = None, weights: bool = True) -> Path:
    """A local directory with the checkpoint at `url`, a URL or an id on the hub. Remote ones are
    downloaded once per version, without the weights unless `weights`.

    Raises InputError if there is none, or if its fingerprint is not the `expected` one.
    """
    if is_hub_id(url):
        return _expected(fetch_from_hub(url), url, expected, weights)
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
    return _expected(folder, url, expected, weights)


def _expected(folder: Path, url: str, expected: str | None, weights: bool) -> Path:
    """The folder; InputError if its fingerprint is not the expected one."""
    if expected is not None and (found := fingerprint(folder, weights)) != expected:
        raise InputError(
            f"the checkpoint at '{redacted(url)}' has changed since the run began (it has the "
            f"fingerprint {found[:8]}, expected {expected[:8]}); what is committed is kept: "
            "restore the old one and run again, or label everything with the new one by --relabel"
        )
    return folder


def is_fastbert(folder: Path) -> bool:
    """Whether a model is a FastBERT checkpoint, and not a classifier to learn from."""
    with readable(folder / "config.json", Exception):
        settings = json.loads((folder / "config.json").read_text())
        return bool(settings.get("model_type") == "fastbert")


def read_settings(folder: Path) -> dict[str, Any]:
    """The unchecked content of config.json of the checkpoint in `folder`; raises InputError if it
    cannot be read, is not of a FastBERT, or has no weights beside it."""
    with readable(folder / "config.json", Exception):
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text())
        model_type = settings.get("model_type")
    if model_type != "fastbert":
        raise InputError(
            f"the checkpoint in {folder} has model_type '{model_type}', expected 'fastbert'; "
            "convert a Hugging Face classifier with fastbert distill"
        )
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"the checkpoint in {folder} has no .safetensors weights; save it again")
    return settings


def is_part(name: str, weights: bool = True) -> bool:
    """Whether a file of this name belongs to a checkpoint, with or without its weights."""
    if name.endswith(".safetensors"):
        return weights
    return name.startswith(
        ("config.json", "tokenizer", "vocab", "merges", "sentencepiece", "spiece")
    )


def fingerprint(folder: Path, weights: bool = True) -> str:
    """SHA-256 over everything in `folder` that affects labels; without weights, over what affects
    tokens.

    Raises InputError if a file of settings is not JSON.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not is_part(path.name, weights):
            continue
        digest.update(f"{path.name}\0".encode())
        if path.name in ("config.json", "tokenizer_config.json"):
            with readable(path, ValueError, AttributeError, RecursionError):
                settings = json.loads(path.read_text()).items()
            kept = {k: v for k, v in settings if k not in _NOT_FINGERPRINTED}
            digest.update(json.dumps(kept, sort_keys=True).encode())
            continue
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def readable(what: object, *kinds: type[Exception]) -> AbstractContextManager[None]:
    """Turn errors of these kinds into an InputError: this part of a checkpoint cannot be read."""
    return explained(f"{what} cannot be read", "save the checkpoint again", *kinds)
