"""Which rows of a shard are audited."""

import hashlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def audit_rows(shard: str, first_row: int, rows: int, rate: float) -> Array:
    """Which rows are audited, bool (rows,): a fixed pseudo-random share of the shard's rows.

    It depends on shard and row number only, so that a retry audits the same rows, and slices of
    another size do.
    """
    key = int.from_bytes(hashlib.sha256(shard.encode()).digest()[:16], "little")
    generator = np.random.Philox(key=key)
    block, begin = divmod(first_row, 4)  # it counts in blocks of four numbers
    generator.advance(block)
    drawn = np.random.Generator(generator).random(begin + rows)[begin:]
    chosen: Array = drawn < rate
    return chosen
