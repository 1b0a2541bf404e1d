"""Texts out of Arrow columns: the one reading of them that all jobs share."""

import logging
from itertools import compress

import pyarrow as pa

from fastbert.exits.windows import Windows
from fastbert.inference.texts import unusable

log = logging.getLogger(__name__)

#: The share of texts that are cut above which that is a warning.
_MANY_CUT = 0.05


def decode(column: pa.ChunkedArray) -> tuple[list[str], list[str | None]]:
    """Texts, and for each row without usable text why ("" stands in for its text)."""
    if pa.types.is_dictionary(column.type):
        return _decode_dictionaries(column)
    raw = column.cast(pa.large_binary())
    try:
        # Through bytes and back: Arrow does not check that its strings are UTF-8, but a cast does.
        texts = raw.cast(pa.large_string()).to_pylist()
    except pa.ArrowInvalid:
        # One text that is not UTF-8 must cost its own row only.
        rows = [_decode(value) for value in raw.to_pylist()]
        return [text or "" for text, _ in rows], [error for _, error in rows]
    return [text or "" for text in texts], [unusable(text) for text in texts]


def usable_texts(table: pa.Table, names: list[str]) -> tuple[list[list[str]], list[bool]]:
    """The texts of some columns, in the rows where all of them can be used, and which rows these
    are, of all."""
    decoded = [decode(table[name]) for name in names]
    usable = [not any(errors) for errors in zip(*(bad for _, bad in decoded), strict=True)]
    return [[*compress(some, usable)] for some, _ in decoded], usable


def _decode_dictionaries(column: pa.ChunkedArray) -> tuple[list[str], list[str | None]]:
    """`decode`, with each value in memory once, however often it is there."""
    texts: list[str] = []
    errors: list[str | None] = []
    values = None
    for chunk in column.chunks:
        if values is None or not chunk.dictionary.equals(values):
            values = chunk.dictionary
            known = [*zip(*decode(pa.chunked_array([values])), strict=True), ("", unusable(None))]
        for i in chunk.indices.to_pylist():
            text, error = known[-1 if i is None else i]
            texts.append(text)
            errors.append(error)
    return texts, errors


def _decode(raw: bytes | None) -> tuple[str | None, str | None]:
    try:
        text = None if raw is None else raw.decode()
    except UnicodeDecodeError as error:
        return None, f"text is not UTF-8: {error.reason} at byte {error.start}"
    return text, unusable(text)


def tell_truncated(rows: int, of: int, max_length: int, windows: Windows | None) -> None:
    """Say how many texts were cut, aloud where they are many."""
    if rows:
        most = f"{windows.most} windows of " if windows else ""
        log.log(
            logging.WARNING if rows > _MANY_CUT * of else logging.INFO,
            f"{rows:,} of {of:,} texts ({rows / of:.1%}) are longer than the model's "
            f"{most}{max_length} tokens: what lies behind is not read",
        )
