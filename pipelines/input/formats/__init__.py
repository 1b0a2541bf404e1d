"""Formats of shards: Parquet, Arrow, JSON Lines and CSV. Which one a file has, its name says."""

import re
from functools import cache
from importlib import import_module

from pipelines.input.formats.format import Format

#: By ending: the module of the format, and what its `Format` is made with.
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
#: Of these, text, which may be compressed: by ending, what Arrow calls it.
_TEXT = {"jsonl", "ndjson", "json", "csv", "tsv"}
_COMPRESSIONS = {"gz": "gzip", "zst": "zstd"}
_NAME = re.compile(rf"(?s).*\.({'|'.join(_ENDINGS)})(?:\.({'|'.join(_COMPRESSIONS)}))?")

#: What a folder may hold, for messages.
NAMES = "Parquet, Arrow, JSON Lines or CSV"
WITHOUT = ".parquet"


def ending(path: str) -> tuple[str, str | None] | None:
    """What a path says of its format, and of its compression; None where it says nothing."""
    found = _NAME.fullmatch(path)
    if not found or (found[2] and found[1] not in _TEXT):
        return None
    return found[1], found[2]


def format_of(path: str) -> Format:
    """The format of a file: the one of its ending, or, of another ending, Parquet."""
    return _format(*(ending(path) or ("parquet", None)))


@cache
def _format(kind: str, compression: str | None) -> Format:
    module, name = _ENDINGS[kind]
    made = getattr(import_module(f"{__name__}.{module}"), name)
    text = {"compression": _COMPRESSIONS.get(compression or "")} if kind in _TEXT else {}
    separated = {"separator": "\t" if kind == "tsv" else None} if module == "delimited" else {}
    found: Format = made(**text, **separated)
    return found
