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
    """Raises InputError if the input contains existing or future labels of these shards: the next
    run would read them as texts."""
    # Without `..` and links. That distorts URLs, but keeps which one is inside another.
    root = os.path.realpath(settings.output)
    table = f"{root}/table/"
    labels = [f"{root}/{table_path(shard.name, 0)}" for shard in shards]
    folders = {os.path.dirname(shard.url) for shard in shards}
    taken_in = any(f"{os.path.realpath(absolute(f))}/".startswith(table) for f in folders)
    for url in settings.input:
        place = os.path.realpath(url)
        matched = False
        if not os.path.exists(place):  # a glob
            matched = any(map(re.compile(glob_translate(place)).match, labels))
        if taken_in or table.startswith(f"{place}/") or matched:
            raise InputError(
                f"--output {redacted(settings.output)} lies inside --input {redacted(url)}, so "
                "labels would be read as texts; put it beside the input"
            )
