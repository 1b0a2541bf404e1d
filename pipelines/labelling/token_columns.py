"""Token ids in the private columns of a slice's table."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fastbert.inference.tokens import Tokens
from pipelines.labelling.work import IDS, TYPES, WINDOWS


def tokens_of(table: pa.Table, good: NDArray[np.bool_]) -> Tokens:
    """The token columns of the rows that are `good`, bool (N,)."""
    there = [name for name in (IDS, TYPES, WINDOWS) if name in table.column_names]
    some = table.select(there)
    some = some if good.all() else some.filter(pa.array(good))
    columns = {name: some[name].combine_chunks() for name in there}
    types = np.asarray(columns[TYPES].flatten()) if TYPES in columns else None
    windows = counts = None
    if WINDOWS in columns:
        windows = np.asarray(columns[WINDOWS].flatten()).astype(np.int64)
        counts = np.asarray(pc.list_value_length(columns[WINDOWS])).astype(np.int64)
    ids = columns[IDS]
    return Tokens(np.asarray(ids.flatten()), np.asarray(ids.offsets), types, None, windows, counts)
