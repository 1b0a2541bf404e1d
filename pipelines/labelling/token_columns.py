"""Token ids in the private columns of a slice's table."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastbert.inference.tokens import Tokens
from pipelines.labelling.work import IDS, TYPES


def tokens_of(table: pa.Table, good: NDArray[np.bool_]) -> Tokens:
    """The token columns of the rows that are `good`, bool (N,)."""
    names = [name for name in (IDS, TYPES) if name in table.column_names]
    some = table.select(names).filter(pa.array(good))
    ids, *types = [some[name].combine_chunks() for name in names]
    kinds = np.asarray(types[0].flatten()) if types else None
    return Tokens(np.asarray(ids.flatten()), np.asarray(ids.offsets), kinds)
