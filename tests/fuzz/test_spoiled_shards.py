"""Files with random faults: refused, or read whole."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.shards import random_texts

from fuzz.reader import ROWS, Reader


def originals(folder: Path) -> list[Path]:
    """Valid files, each of another make."""
    texts = [*random_texts(ROWS - 2, seed=3), None, ""]
    table = pa.table(
        {
            "text": texts,
            "id": range(len(texts)),
            "tags": [["a", None], [], None, ["b"]] * 15 + [[], []],
            "kind": pa.array(["x", "y"] * 31).dictionary_encode(),
        }
    )
    makes = {
        "plain": dict(compression="none", use_dictionary=False),
        "snappy": dict(row_group_size=17),
        "zstd-v2": dict(compression="zstd", data_page_version="2.0", data_page_size=64),
        "checksums": dict(compression="none", write_page_checksum=True),
        "delta": dict(
            use_dictionary=False,
            column_encoding={"text": "DELTA_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED"},
        ),
        "indexes": dict(write_page_index=True, store_schema=False, row_group_size=31),
    }
    paths = []
    for name, options in makes.items():
        paths.append(folder / f"{name}.parquet")
        pq.write_table(table, paths[-1], **options)
    return paths


def spoiled(data: bytes, generator: np.random.Generator) -> bytes:
    """One to three flips, cuts, insertions or runs of zeros; half of them in the footer."""
    for _ in range(generator.integers(1, 4)):
        if not data:
            break
        footer = max(0, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
        first = footer if generator.random() < 0.5 and footer < len(data) else 0
        at = int(generator.integers(first, len(data)))
        size = int(generator.integers(1, 9))
        match generator.integers(0, 12):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + generator.bytes(size) + data[at:]
            case 2:
                data = data[:at] + data[at + size :]
            case 3:
                data = data[:at] + bytes(size) + data[at + size :]
            case _:
                data = data[:at] + bytes([data[at] ^ 1 << generator.integers(8)]) + data[at + 1 :]
    return data


@pytest.fixture
def reader(checkpoint):
    """A reader in a process of its own."""
    found = Reader(checkpoint)
    yield found
    found.stop()


def test_spoiled_files_are_refused_or_read_whole(repeat, reader, tmp_path, request):
    makes = [path.read_bytes() for path in originals(tmp_path)]
    seeds = np.random.SeedSequence(None if request.config.getoption("--fuzz-minutes") else 7)
    generator = np.random.default_rng(seeds)
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "x.parquet"
    outcomes: Counter[str] = Counter()
    wrong: dict[str, str] = {}

    def some() -> None:
        for k in range(60):
            data = spoiled(makes[k % len(makes)], generator)
            path.write_bytes(data)
            said = reader(str(path))
            outcomes[said.partition(":")[0]] += 1
            # A crash costs the shard only where readers run; in the driver it would end the job.
            if not said.startswith(("read", "refused", "crash in the reader")):
                wrong.setdefault(said, data.hex())

    repeat("file", some)
    print(f"files: {dict(outcomes)}")
    for said, data in wrong.items():
        print(said, data)
    assert not wrong
    assert outcomes["read"]
    assert outcomes["refused"]


def test_the_makes_of_files_can_be_read(reader, tmp_path):
    for path in originals(tmp_path):
        assert reader(str(path)) == "read"
