"""Texts: none, odd, huge, of other types, not UTF-8."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hostile.harness import (
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


@KINDS.each(
    "text",
    {
        "10-mb": "the red river " * 750_000,
        "one-huge-word": "x" * 2_000_000,
        "one-huge-unknown-word": "\u4e2d" * 500_000,
        "unknown-characters": "\u16a0\u16a1\u16a2 \U000e0041 \ue000",
        "nul": "the\0red\0",
        "only-nul": "\0",
        "controls": "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f the",
        "zero-width": "\u200b\u200c\u200d\u2060\ufeff",
        "bidi": "\u202ethe red\u202c \u2066river\u2069 \u05d0\u05d1",
        "combining": "Z" + "\u0301\u0323" * 5000 + " a\u0308",
        "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0001f44d",
        "non-characters": "\ufffe\uffff\U0010ffff \ufffd",
        "special-tokens": "[CLS] [SEP] [MASK] [PAD] [UNK] [SEP] [SEP]",
        "markup": "<script>alert(1)</script> '; drop table labels; -- {{7*7}} %s %n ${HOME}",
    },
)
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
