"""Choice of the audited rows of a shard."""

import hashlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def audit_rows(shard: str, first_row: int, rows: int, rate: float) -> Array:
    """Mask of audited rows, bool (rows,): a fixed pseudo-random share of the shard's rows.

    It depends only on shard and row number, so retries and slices of another size audit the same
    rows.
    """
    key = int.from_bytes(hashlib.sha256(shard.encode()).digest()[:16], "little")
    generator = np.random.Philox(key=key)
    block, begin = divmod(first_row, 4)  # the generator counts blocks of four numbers
    generator.advance(block)
    drawn = np.random.Generator(generator).random(begin + rows)[begin:]
    chosen: Array = drawn < rate
    return chosen
