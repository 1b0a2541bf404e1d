"""Texts from Arrow columns: how all jobs read them."""

import logging
from itertools import compress

import pyarrow as pa

from fastbert.exits.windows import Windows
from fastbert.inference.texts import unusable

log = logging.getLogger(__name__)

#: Share of truncated texts above which the message is a warning.
_MANY_CUT = 0.05


def decode(column: pa.ChunkedArray) -> tuple[list[str], list[str | None]]:
    """Texts, and for each row without usable text the reason ("" is in place of its text)."""
    if pa.types.is_dictionary(column.type):
        return _decode_dictionaries(column)
    raw = column.cast(pa.large_binary())
    try:
        # Through bytes and back: Arrow does not check that its strings are UTF-8, but a cast does.
        texts = raw.cast(pa.large_string()).to_pylist()
    except pa.ArrowInvalid:
        # One text that is not UTF-8 must fail only its own row.
        rows = [_decode(value) for value in raw.to_pylist()]
        return [text or "" for text, _ in rows], [error for _, error in rows]
    return [text or "" for text in texts], [unusable(text) for text in texts]


def usable_texts(table: pa.Table, names: list[str]) -> tuple[list[list[str]], list[bool]]:
    """The texts of the columns `names`, in rows where all of them are usable, and for each row
    whether it is one of these."""
    decoded = [decode(table[name]) for name in names]
    usable = [not any(errors) for errors in zip(*(bad for _, bad in decoded), strict=True)]
    return [[*compress(some, usable)] for some, _ in decoded], usable


def _decode_dictionaries(column: pa.ChunkedArray) -> tuple[list[str], list[str | None]]:
    """`decode`, with repeated values once in memory."""
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
    """Log how many texts were truncated, as a warning if they are many."""
    if rows:
        most = f"{windows.most} windows of " if windows else ""
        log.log(
            logging.WARNING if rows > _MANY_CUT * of else logging.INFO,
            f"{rows:,} of {of:,} texts ({rows / of:.1%}) are longer than the model's "
            f"{most}{max_length} tokens: only their beginning is read",
        )
