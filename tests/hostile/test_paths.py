"""Names of shards and folders."""

import os
from pathlib import Path

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


@KINDS.each(
    "path",
    {
        "spaces": "dt=2026 11 24/a b",
        "percent": "dt=2026%2F11%2F24/a%20b%",
        "equals": "a=b=c/=d/e=",
        "unicode": "stra\xdfe=\u4e2d\u6587/\u202ex",
        "emoji": "mood=\U0001f44d/\U0001f468\u200d\U0001f469",
        "decomposed": "cafe\u0301/caf\xe9",
        "long-folder": "k=" + "v" * 250 + "/x",
        "long-name": "n" * 234,
        "long-unicode-name": "\u4e2d" * 78,
        "colon": "a:b/c:d",
        "at": "user:secret@host/x",
        "hash": "a#b/c#d",
        "question": "a?b/c?d",
        "query": "q?a=1/x?b=2",
        "ampersand": "a&b/c;d",
        "backslash": "a\\b/c\\..\\d",
        "newline": "a\nb/c\nd",
        "tab-and-escape": "a\tb/\x1b[31mc",
        "star": "a*b/*",
        "brackets": "[a]/x[0-9]",
        "braces": "{a,b}/{x}",
        "tilde": "~/~root",
        "dollar": "$HOME/${x}",
        "dash": "-rf/--output",
        "quotes": 'it\'s/"x"',
        "dots-in-names": "a../b.../c.",
        "leading-space": " a/ b ",
        "deep": "/".join("abcdefghij" * 6) + "/x",
        "digits": "0/000000000000",
        "windows": "con/nul",
        "windows-drive": "C:/x",
        "scheme": "s3:/bucket/x",
        "windows-1252": "\x80/\x9f",
    },
)
def path(folder: Path, name: str) -> Expected:
    return write(folder, numbered(TEXTS), name)


@KINDS.add
def queries_that_differ(folder: Path) -> Expected:
    """A local path has no query: the two must not become one bad shard."""
    write(folder, numbered(TEXTS), "x?v=1")
    expected = write(folder, numbered(TEXTS), "x?v=2")
    (folder / "x?v=1.parquet").write_bytes(b"")
    expected.bad = {"x?v=1.parquet": "cannot be read"}
    return expected


@KINDS.each(
    "bad-path",
    {
        "two-colons": ("a::b", "a::b", "'::' or a NUL"),
        "two-colons-in-folder": ("a::b/x", "a::b/x", "'::' or a NUL"),
        "not-utf8": ("a\udcff", "a\\udcff", "not UTF-8"),
        "not-utf8-folder": ("a\udcff/x", "a\\udcff/x", "not UTF-8"),
        "too-long": ("n" * 240, "n" * 240, "name is too long: 240 bytes"),
    },
)
def bad_path(folder: Path, value: tuple[str, str, str]) -> Expected:
    name, shown, reason = value
    target = folder / "x.parquet"
    write(folder, numbered(TEXTS))
    place = f"{folder}/{name}.parquet"
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.rename(target, place)
    return bad(folder, reason, f"{shown}.parquet")


@pytest.mark.parametrize("name", KINDS)
def test_kind(name, tmp_path, job):
    check_kind(KINDS[name], tmp_path, job)
