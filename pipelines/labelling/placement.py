"""Places of input, output and model: absolute, and apart from each other."""

import os
import re
from dataclasses import replace
from typing import TypeVar

from fsspec.utils import glob_translate

from fastbert.checkpoint import is_hub_id
from fastbert.errors import InputError
from fastbert.filesystem import absolute, redacted
from pipelines.input.shards import Shard
from pipelines.output.record import table_path
from pipelines.settings import Labelling

S = TypeVar("S", bound=Labelling)


def placed(settings: S) -> S:
    """The settings with places that processes in other folders also find."""
    inputs = tuple(absolute(url) for url in settings.input)
    return replace(settings, input=inputs, output=absolute(settings.output))


def model_placed(model: str) -> str:
    """The same for a model's place."""
    return model if is_hub_id(model) else absolute(model)


def check_apart(settings: Labelling, shards: list[Shard]) -> None:
    """Raises InputError if the input covers labels of these shards, there or to come: the next run
    would take them for texts."""
    root = os.path.realpath(settings.output)
    labels = [f"{root}/{table_path(shard.name, 0)}" for shard in shards]
    if url := covering(settings.input, shards, f"{root}/table/", labels):
        raise InputError(
            f"--output {redacted(settings.output)} lies inside --input {redacted(url)}, which "
            "would take labels for texts; put it beside the input"
        )


def covering(
    inputs: tuple[str, ...], shards: list[Shard], folder: str, files: list[str]
) -> str | None:
    """Which of the inputs covers a folder that ends in a slash, or files that are to be in it, or
    has some of its shards there; all are absolute."""
    # Without `..` and links. URLs look odd after that, but lie in each other as before.
    folders = {os.path.dirname(shard.url) for shard in shards}
    taken_in = any(f"{os.path.realpath(absolute(f))}/".startswith(folder) for f in folders)
    for url in inputs:
        place = os.path.realpath(url)
        matched = False
        if not os.path.exists(place):  # a glob
            matched = any(map(re.compile(glob_translate(place)).match, files))
        if taken_in or folder.startswith(f"{place}/") or matched:
            return url
    return None
