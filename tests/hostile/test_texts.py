"""Texts: none, odd, huge, of other types, not UTF-8."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hostile.harness import (
    ODD,
    TEXTS,
    Expected,
    Kinds,
    bad,
    check_kind,
    numbered,
    write,
)

KINDS = Kinds()


def raw_strings(values: list[bytes]) -> pa.Array:
    """A string array of any bytes: Arrow does not look."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


FIRST_ROW_EMPTY = {
    "null": (None, "text is null"),
    "empty": ("", "text is empty"),
    "spaces": (" \t\n ", "text is empty"),
    "unicode-spaces": ("\u3000\u2003\xa0\u2028", "text is empty"),
}


@KINDS.each("text", FIRST_ROW_EMPTY)
def unusable_text(folder: Path, value: tuple[str | None, str]) -> Expected:
    expected = write(folder, numbered(pa.array([value[0], *TEXTS], pa.string())))
    expected.errors = {0: value[1]}
    return expected


@KINDS.each("text", ODD)
def odd_text(folder: Path, text: str) -> Expected:
    return write(folder, numbered([*TEXTS[:5], text, *TEXTS[5:]]))


@KINDS.each(
    "bytes",
    {
        "lone-surrogate": b"the \xed\xa0\x80 river",
        "latin-1": "caf\xe9 the".encode("latin-1"),
        "truncated": "the \u4e2d".encode()[:-1],
        "overlong": b"\xc0\xaf",
        "too-high": b"\xf4\x90\x80\x80",
        "random": bytes(range(256)),
    },
)
def text_not_utf8(folder: Path, value: bytes) -> Expected:
    texts = raw_strings([b"the red", value, b"", b"river"])
    expected = write(folder, numbered(texts, more=texts))
    expected.errors = {1: "text is not UTF-8: .* at byte", 2: "text is empty"}
    return expected


@KINDS.each(
    "text-type",
    {
        "dictionary": lambda: pa.array([None, *TEXTS, *TEXTS]).dictionary_encode(),
        "large": lambda: pa.array([None, *TEXTS], pa.large_string()),
        "view": lambda: pa.array([None, *TEXTS], pa.string_view()),
        "dictionary-of-large": lambda: pa.array(
            [None, *TEXTS], pa.large_string()
        ).dictionary_encode(),
    },
)
def text_type(folder: Path, make: Callable[[], pa.Array]) -> Expected:
    expected = write(folder, numbered(make()))
    expected.errors = {0: "text is null"}
    return expected


@KINDS.each(
    "text-type",
    {
        "binary": (pa.binary(), b"the"),
        "list": (pa.list_(pa.string()), ["the"]),
        "int": (pa.int64(), 7),
        "struct": (pa.struct([("a", pa.string())]), {"a": "the"}),
        "null": (pa.null(), None),
        "dictionary-of-int": (pa.dictionary(pa.int32(), pa.int64()), 7),
    },
)
def text_of_wrong_type(folder: Path, value: tuple[pa.DataType, Any]) -> Expected:
    array = pa.array([value[1]] * 3, value[0])
    pq.write_table(numbered(array), folder / "x.parquet")
    return bad(folder, "column 'text' is of type [^ ]+( string>)?, expected string")


@pytest.mark.parametrize("name", KINDS)
def test_kind(name, tmp_path, job):
    check_kind(KINDS[name], tmp_path, job)
