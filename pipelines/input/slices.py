"""Slices of shards: what they are, and reading their rows."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard
from pipelines.input.unreadable import ShardError, parquet_errors
from pipelines.output.record import table_path

#: Rows and, about, bytes tokenized at a time, so that neither one huge row group nor huge texts
#: fill the memory.
BATCH_ROWS, BATCH_BYTES = 4096, 64 << 20
#: Rows decoded at a time, or as many as there are columns, whose batches take time each. Few,
#: because a footer does not tell how long rows are: a text that repeats is in the file once.
_DECODE_ROWS = 64
#: Largest row group that is fetched in whole, and else the bytes of a column read at a time.
_FETCH_BYTES, _READ_BYTES = 256 << 20, 1 << 20

Item = TypeVar("Item")


@dataclass(frozen=True)
class Slice:
    """A row range of one shard: the unit of work, of retry and of commit."""

    shard: Shard
    shard_rows: int
    first_row: int
    rows: int

    @property
    def path(self) -> str:
        """Where its labelled rows go, below the output root."""
        return table_path(self.shard.name, self.first_row)


def count_rows(shard: Shard, columns: InputColumns) -> int:
    """The shard's number of rows, from its footer.

    Raises ShardError if it cannot be labelled, and the store's own error if that may pass.
    """
    with parquet_errors(), shard.open() as file:
        parquet = pq.ParquetFile(file)
        columns.carried(parquet.schema_arrow)
        footer = parquet.metadata
    rows = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    if sum(rows) != footer.num_rows or min(rows, default=0) < 0:  # some would be lost in silence
        raise ShardError(
            f"its footer says {footer.num_rows} rows, its row groups hold {sum(rows)}; "
            "write it again"
        )
    return int(footer.num_rows)


class SliceReader:
    """Reads the rows of slices, in any order; cheaply where one lies behind the last in its shard.

    Parquet can decode a row group from its start only. Were each slice opened for itself, the start
    of one huge row group would be decoded again for every slice in it, which is quadratic. So a
    reader keeps its place in a shard and goes on from there.
    """

    def __init__(self, columns: InputColumns) -> None:
        self.columns = columns
        self._place: _Place | None = None

    def read(self, piece: Slice) -> Iterator[pa.Table]:
        """The slice's rows, some at a time, but at least once, though it be none.

        Raises ShardError if the shard cannot be read or no longer has the rows, and the store's
        own error if that may pass.
        """
        rows = 0
        try:
            with parquet_errors():
                if self._place is None or not self._place.leads_to(piece):
                    self.close()
                    self._place = _Place(piece, self.columns)
                for batch in self._place.take(piece):
                    rows += batch.num_rows
                    yield batch
        except BaseException:
            self.close()  # it is not known where
            raise
        if missing := piece.rows - rows:
            self.close()
            raise ShardError(f"changed while it was read: {missing} of {piece.rows} rows are gone")
        if not rows:
            yield self._place.schema.empty_table()

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
            metadata = pq.read_metadata(file)
            groups = map(metadata.row_group, range(metadata.num_row_groups))
            weights = [(group.num_rows, group.total_byte_size) for group in groups]
            largest = max((size for _, size in weights), default=0)
            parquet = pq.ParquetFile(
                file,
                metadata=metadata,
                buffer_size=_READ_BYTES,
                pre_buffer=largest <= _FETCH_BYTES,
                page_checksum_verification=True,
            )
            schema = parquet.schema_arrow
            names = list(dict.fromkeys([*columns.texts, *columns.carried(schema)]))
            self.schema = pa.schema([schema.field(name) for name in names])
            # Of the row groups; at last, the end.
            self.starts = list(accumulate((rows for rows, _ in weights), initial=0))
            first = self._group(piece.first_row)
            self.row = self.starts[first]
            bytes_per_row = max((size // max(1, rows) for rows, size in weights), default=0)
            at_once = min(
                BATCH_ROWS,
                max(_DECODE_ROWS, len(names)),
                max(1, BATCH_BYTES // max(1, bytes_per_row)),
            )
            # Arrow keeps what it has fetched for a call until the next one.
            self.batches = (
                batch
                for run in _together(range(first, len(weights)), weights.__getitem__)
                for batch in parquet.iter_batches(at_once, run, columns=names)
            )
            self.rest: pa.RecordBatch | None = None  # decoded, and not taken yet
            self.close = stack.pop_all().close

    def leads_to(self, piece: Slice) -> bool:
        """Whether going on gets to the slice, and no later than from its row group's start."""
        start = self.starts[self._group(piece.first_row)]
        return self.shard == piece.shard and start <= self.row <= piece.first_row

    def take(self, piece: Slice) -> Iterator[pa.Table]:
        """The slice's rows, some at a time, or those that the shard has."""
        for some in _together(self._parts(piece), lambda part: (part.num_rows, part.nbytes)):
            yield pa.Table.from_batches(some, self.schema)

    def _parts(self, piece: Slice) -> Iterator[pa.RecordBatch]:
        """The slice's rows as they are decoded."""
        stop = piece.first_row + piece.rows
        while self.row < stop and (batch := self.rest or next(self.batches, None)):
            first = max(0, piece.first_row - self.row)
            last = min(batch.num_rows, stop - self.row)
            self.row += last
            self.rest = batch.slice(last) if last < batch.num_rows else None
            if first < last:
                yield batch.select(self.schema.names).slice(first, last - first)

    def _group(self, row: int) -> int:
        """The row group that `row` lies in."""
        return max(0, bisect_right(self.starts, row, hi=len(self.starts) - 1) - 1)


def _together(
    items: Iterable[Item], weight: Callable[[Item], tuple[int, int]]
) -> Iterator[list[Item]]:
    """Neighbours of few rows and bytes together; `weight` tells both."""
    some: list[Item] = []
    rows = size = 0
    for item in items:
        more, larger = weight(item)
        rows, size = rows + more, size + larger
        if some and (rows > BATCH_ROWS or size > BATCH_BYTES):
            yield some
            some, rows, size = [], more, larger
        some.append(item)
    if some:
        yield some
