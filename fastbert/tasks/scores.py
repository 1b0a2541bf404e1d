"""Numbers of every class, as lists in a column.

Letters: n rows, N classes.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def listed(scores: NDArray[Any], given: NDArray[np.bool_]) -> pa.Array:
    """Numbers (n, N) as a list for each row, null where none are `given` (n,)."""
    lengths = given * scores.shape[1]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = pa.array(np.ascontiguousarray(scores[given], np.float32).ravel())
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~given))
