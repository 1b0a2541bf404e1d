"""Codecs, pages and encodings of Parquet."""

from pathlib import Path

import pyarrow as pa
import pytest
from support.shards import random_texts

from hostile.harness import TEXTS, Expected, Kinds, check_kind, numbered, write

KINDS = Kinds()


@KINDS.each("codec", {name: name for name in ("snappy", "gzip", "brotli", "zstd", "lz4", "none")})
def codec(folder: Path, name: str) -> Expected:
    return write(folder, numbered(TEXTS), compression=name)


@KINDS.each("data-page", {f"v{v[0]}": v for v in ("1.0", "2.0")})
def data_page(folder: Path, version: str) -> Expected:
    return write(folder, numbered(TEXTS), data_page_version=version, data_page_size=16)


@KINDS.each("format", {name: name for name in ("1.0", "2.4", "2.6")})
def format_version(folder: Path, version: str) -> Expected:
    return write(folder, numbered(TEXTS, u=pa.array(range(20), pa.uint32())), version=version)


@KINDS.each(
    "encoding",
    {
        "delta-byte-array": {"text": "DELTA_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED"},
        "delta-length": {"text": "DELTA_LENGTH_BYTE_ARRAY"},
        "split": {"id": "BYTE_STREAM_SPLIT", "f": "BYTE_STREAM_SPLIT"},
        "plain": {"text": "PLAIN", "id": "PLAIN"},
    },
)
def encoding(folder: Path, columns: dict[str, str]) -> Expected:
    table = numbered(TEXTS, f=[i / 7 for i in range(20)])
    return write(folder, table, use_dictionary=False, column_encoding=columns)


@KINDS.add
def dictionary_that_overflows(folder: Path) -> Expected:
    """The writer falls back to plain pages in the middle of the column."""
    return write(folder, numbered(random_texts(500)), dictionary_pagesize_limit=64)


@pytest.mark.parametrize("name", KINDS)
def test_kind(name, tmp_path, job):
    check_kind(KINDS[name], tmp_path, job)
