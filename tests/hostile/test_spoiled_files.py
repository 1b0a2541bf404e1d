"""What is not Parquet, or no longer, or encrypted."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from hostile.harness import (
    TEXTS,
    Expected,
    Kinds,
    bad,
    check_kind,
    numbered,
    parquet_bytes,
)

KINDS = Kinds()


@KINDS.each(
    "file",
    {
        "zero-bytes": b"",
        "text": b"id,text\n1,the red river\n" * 100,
        "magic-only": b"PAR1",
        "two-magics": b"PAR1PAR1",
        "magics-around-nothing": b"PAR1\0\0\0\0PAR1",
        "footer-longer-than-file": b"PAR1" + b"\xff\xff\xff\x7fPAR1",
        "footer-of-noise": b"PAR1" + b"\x15\x04" * 50 + b"\x64\0\0\0PAR1",
        "arrow": b"ARROW1\0\0" + b"\0" * 100,
        "gzip": b"\x1f\x8b\x08" + b"\0" * 100,
    },
)
def no_parquet(folder: Path, data: bytes) -> Expected:
    (folder / "x.parquet").write_bytes(data)
    return bad(folder, "cannot be read as Parquet: ")


@KINDS.each("truncated", {"half": 0.5, "last-byte": -1, "first-bytes": 12})
def truncated(folder: Path, length: float) -> Expected:
    data = parquet_bytes(folder)
    length = int(length * len(data)) if 0 < length < 1 else length
    (folder / "x.parquet").write_bytes(data[: int(length)])
    return bad(folder, "cannot be read as Parquet")


@KINDS.add
def truncated_at_the_start(folder: Path) -> Expected:
    data = parquet_bytes(folder)
    (folder / "x.parquet").write_bytes(data[100:])
    return bad(folder, "cannot be read")


def flipped(data: bytes, first: int, last: int, seed: int) -> bytes:
    """One bit of the bytes from `first` to `last` turned."""
    spoiled = bytearray(data)
    bit = int(np.random.default_rng(seed).integers(8 * first, 8 * last))
    spoiled[bit // 8] ^= 1 << bit % 8
    return bytes(spoiled)


@KINDS.each("flipped-footer", {str(seed): seed for seed in range(12)})
def flipped_footer(folder: Path, seed: int) -> Expected:
    data = parquet_bytes(folder)
    table = pq.read_table(folder / "x.parquet")
    footer = 8 + int.from_bytes(data[-8:-4], "little")
    spoiled = flipped(data, len(data) - footer, len(data), seed)
    (folder / "x.parquet").write_bytes(spoiled)
    return Expected(either={"x.parquet": (".", table.select(["text"]))})


@KINDS.each("footer-says", {"fewer-rows": 299, "more-rows": 301})
def footer_that_contradicts_itself(folder: Path, rows: int) -> Expected:
    """The file's number of rows is not the sum of its row groups'."""
    data = parquet_bytes(folder)

    def field(value: int) -> bytes:  # of Thrift: number 3, a varint, before the row groups
        return bytes([0x16, (2 * value) & 0x7F | 0x80, (2 * value) >> 7, 0x19])

    assert data.count(field(300)) == 1
    (folder / "x.parquet").write_bytes(data.replace(field(300), field(rows)))
    return bad(folder, f"its footer gives {rows} rows, its row groups hold 300; write it again")


@KINDS.each("flipped-page", {str(seed): seed for seed in range(6)})
def flipped_page(folder: Path, seed: int) -> Expected:
    """Nothing in the file can tell that a value has changed; the number of rows holds."""
    data = parquet_bytes(folder)
    table = pq.read_table(folder / "x.parquet")
    footer = 8 + int.from_bytes(data[-8:-4], "little")
    (folder / "x.parquet").write_bytes(flipped(data, 4, len(data) - footer, seed))
    return Expected(either={"x.parquet": (".", table.select(["text"]))})


@KINDS.each("flipped-page-with-checksum", {str(seed): seed for seed in range(6)})
def flipped_page_with_checksum(folder: Path, seed: int) -> Expected:
    options = dict(use_dictionary=False, compression="none", write_page_checksum=True)
    data = parquet_bytes(folder, **options)
    text = pq.read_metadata(folder / "x.parquet").row_group(0).column(0)
    first = text.data_page_offset + 60  # behind the page's header
    last = text.data_page_offset + text.total_compressed_size
    (folder / "x.parquet").write_bytes(flipped(data, first, last, seed))
    return bad(folder, "(?i)could not verify page integrity|crc")


class Keys(pe.KmsClient):
    """Keys that only this process has, and that protect nothing."""

    def __init__(self, _: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> str:
        return key.hex()

    def unwrap_key(self, wrapped: str, _: str) -> bytes:
        return bytes.fromhex(wrapped)


@KINDS.each("encrypted", {"footer": False, "columns": True})
def encrypted(folder: Path, plaintext_footer: bool) -> Expected:
    factory = pe.CryptoFactory(Keys)
    configuration = pe.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=plaintext_footer
    )
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), configuration)
    table = numbered(TEXTS)
    path = folder / "x.parquet"
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return bad(folder, "(?i)cannot be read as Parquet: .*(crypt|no decryption)")


@pytest.mark.parametrize("name", KINDS)
def test_kind(name, tmp_path, job):
    check_kind(KINDS[name], tmp_path, job)
