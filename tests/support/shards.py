"""Shards of random texts, of words that the tiny tokenizers know."""

import os
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.input.formats.format import Scan

SENTENCE = "a the red blue stone river runs under old tall quiet bridge market city night bread"
WORDS = SENTENCE.split()

#: To patch where shards are never opened: what opens a new one.
SCAN = "pipelines.input.scans.scan"


def scan_of(rows: int) -> Scan:
    return Scan(rows, pa.schema([("text", pa.string())]))


def random_texts(rows: int, seed: int = 0, longest: int = 20) -> list[str]:
    generator = np.random.default_rng(seed)
    return [
        " ".join(generator.choice(WORDS, generator.integers(1, longest + 1))) for _ in range(rows)
    ]


def write_shard(path: Path, texts: list[str | None], **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": pa.array(texts, pa.string()), "id": range(len(texts)), **columns})
    pq.write_table(table, path, row_group_size=7)
    return path


def die(*_: object) -> NoReturn:
    """In place of what a process is to do."""
    os._exit(1)


def linger(*_: object) -> None:
    """The same."""
    time.sleep(600)
