"""Formats of shards: Parquet, Arrow, JSON Lines and CSV. A file's name gives its format."""

import re
from functools import cache
from importlib import import_module

from pipelines.input.formats.format import Format

#: By ending: the module of the format, and the arguments of its `Format`.
_ENDINGS = {
    "parquet": ("parquet", "Parquet"),
    "arrow": ("ipc", "Arrow"),
    "feather": ("ipc", "Arrow"),
    "ipc": ("ipc", "Arrow"),
    "jsonl": ("lines", "JsonLines"),
    "ndjson": ("lines", "JsonLines"),
    "json": ("lines", "JsonLines"),
    "csv": ("delimited", "Delimited"),
    "tsv": ("delimited", "Delimited"),
}
#: Compressions of text formats: by ending, Arrow's name for it.
_TEXT = {"jsonl", "ndjson", "json", "csv", "tsv"}
COMPRESSIONS = {"gz": "gzip", "zst": "zstd"}
_NAME = re.compile(rf"(?s).*\.({'|'.join(_ENDINGS)})(?:\.({'|'.join(COMPRESSIONS)}))?")

#: The formats, for messages.
NAMES = "Parquet, Arrow, JSON Lines or CSV"
WITHOUT = ".parquet"


def ending(path: str) -> tuple[str, str | None] | None:
    """The format and the compression by a path's ending; None if the ending is unknown."""
    found = _NAME.fullmatch(path)
    if not found or (found[2] and found[1] not in _TEXT):
        return None
    return found[1], found[2]


def format_of(path: str) -> Format:
    """The format of a file by its ending; Parquet if the ending is unknown."""
    return _format(*(ending(path) or ("parquet", None)))


@cache
def _format(kind: str, compression: str | None) -> Format:
    module, name = _ENDINGS[kind]
    made = getattr(import_module(f"{__name__}.{module}"), name)
    text = {"compression": COMPRESSIONS.get(compression or "")} if kind in _TEXT else {}
    separated = {"separator": "\t" if kind == "tsv" else None} if module == "delimited" else {}
    found: Format = made(**text, **separated)
    return found
