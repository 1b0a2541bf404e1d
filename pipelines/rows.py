"""The rows of slices, from Parquet.

A row group can be decoded from its start only. Were each slice opened for itself, the start of one
huge row group would be decoded again for every slice in it, which is quadratic. So a reader keeps
its place in a shard and goes on from there.
"""

from bisect import bisect_right
from contextlib import ExitStack
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.plan import Slice
from pipelines.schema import InputColumns
from pipelines.shards import ShardError

#: Rows decoded at a time, so that one huge row group does not fill the memory.
_BATCH_ROWS = 4096
#: Bytes of a column read at a time, for the same reason.
_READ_BYTES = 1 << 20


class SliceReader:
    """Reads slices in any order; cheaply where one lies behind the last in the same shard."""

    def __init__(self, columns: InputColumns) -> None:
        self.columns = columns
        self._place: _Place | None = None

    def read(self, piece: Slice) -> tuple[pa.Table, dict[str, str]]:
        """The slice's rows, and input name -> output name of the columns to carry.

        Raises ShardError if the shard cannot be read or no longer has the rows.
        """
        try:
            if self._place is None or not self._place.leads_to(piece):
                self.close()
                self._place = _Place(piece, self.columns)
            table = self._place.take(piece)
            if missing := piece.rows - table.num_rows:
                raise ShardError(
                    f"changed while it was read: {missing} of {piece.rows} rows are gone"
                )
            return table, self._place.carried
        except (pa.ArrowException, OSError) as error:
            self.close()
            raise ShardError(f"cannot be read as Parquet: {error}") from error

    def close(self) -> None:
        """Let go of the open shard, if there is one."""
        if self._place is not None:
            self._place.close()
            self._place = None


class _Place:
    """An open shard, decoded up to `row`."""

    def __init__(self, piece: Slice, columns: InputColumns) -> None:
        self.shard = piece.shard
        with ExitStack() as stack:
            file = stack.enter_context(piece.shard.open())
            parquet = pq.ParquetFile(file, buffer_size=_READ_BYTES)
            self.carried = columns.carried(parquet.schema_arrow)
            names = list(dict.fromkeys([*columns.texts, *self.carried]))
            self.schema = pa.schema([parquet.schema_arrow.field(name) for name in names])
            groups = range(parquet.num_row_groups)
            sizes = (parquet.metadata.row_group(group).num_rows for group in groups)
            self.starts = list(accumulate(sizes, initial=0))  # of the groups; at last, the end
            first = self._group(piece.first_row)
            self.row = self.starts[first]
            self.batches = parquet.iter_batches(_BATCH_ROWS, list(groups[first:]), columns=names)
            self.rest: pa.RecordBatch | None = None  # decoded, and not taken yet
            self.close = stack.pop_all().close

    def leads_to(self, piece: Slice) -> bool:
        """Whether going on gets to the slice, and no later than from its row group's start."""
        start = self.starts[self._group(piece.first_row)]
        return self.shard == piece.shard and start <= self.row <= piece.first_row

    def take(self, piece: Slice) -> pa.Table:
        """The slice's rows, or those that the shard has."""
        stop = piece.first_row + piece.rows
        parts = []
        while self.row < stop and (batch := self.rest or next(self.batches, None)):
            first = max(0, piece.first_row - self.row)
            last = min(batch.num_rows, stop - self.row)
            if first < last:
                parts.append(batch.select(self.schema.names).slice(first, last - first))
            self.row += last
            self.rest = batch.slice(last) if last < batch.num_rows else None
        return pa.Table.from_batches(parts, self.schema)

    def _group(self, row: int) -> int:
        """The row group that `row` lies in."""
        return max(0, bisect_right(self.starts, row, hi=len(self.starts) - 1) - 1)
