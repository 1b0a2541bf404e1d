"""Slices of shards, and how to read their rows."""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

from pipelines.input.batches import together
from pipelines.input.columns import InputColumns
from pipelines.input.formats.format import Scan, Start
from pipelines.input.shards import Shard
from pipelines.input.unreadable import ShardError, reading
from pipelines.output.record import table_path


@dataclass(frozen=True)
class Slice:
    """A row range of one shard: the unit of work, of retry and of commit."""

    shard: Shard
    shard_rows: int
    first_row: int
    rows: int
    #: Place where reading can begin, if the plan knows it.
    start: Start = Start()

    @property
    def path(self) -> str:
        """Path of its labelled rows, below the output root."""
        return table_path(self.shard.name, self.first_row)


def streams(slices: list[Slice]) -> list[list[Slice]]:
    """Groups of successive slices for one reader: those whose reading begins at the same place, as
    in a compressed file, where each of several readers would read all rows before its own."""

    def place(numbered: tuple[int, Slice]) -> object:
        number, piece = numbered
        return (piece.shard.url, piece.start) if piece.shard.format.scanned else number

    return [[piece for _, piece in some] for _, some in groupby(enumerate(slices), place)]


def scan(shard: Shard, columns: InputColumns) -> Scan:
    """The scan of a shard.

    Raises ShardError if it cannot be labelled, and the store's own error if it may be temporary.
    """
    with reading(shard.format.name), shard.open() as file:
        found = shard.format.scan(file)
    check_columns(shard, found, columns)
    return found


def check_columns(shard: Shard, found: Scan, columns: InputColumns) -> None:
    """Raises ShardError as `columns.carried` does, except for text files without lines."""
    if shard.format.typed or found.rows or found.schema.names:
        columns.carried(found.schema)


class SliceReader:
    """Reads the rows of slices, in any order; cheaply if a slice follows the last one in its shard.

    A Parquet row group, or a compressed text file, can only be decoded from its start. If each
    slice were opened by itself, the start of a huge row group would be decoded again for every
    slice in it, which is quadratic. So a reader keeps its place in a shard and continues from
    there.
    """

    def __init__(self, columns: InputColumns) -> None:
        self.columns = columns
        self._place: _Place | None = None

    def read(self, piece: Slice) -> Iterator[pa.Table]:
        """The slice's rows in batches: at least one, which may be empty. Text formats add a column,
        BROKEN.

        Raises ShardError if the shard cannot be read or no longer has the rows, and the store's own
        error if it may be temporary.
        """
        rows = 0
        try:
            with reading(piece.shard.format.name):
                if self._place is None or not self._place.leads_to(piece):
                    self.close()
                    self._place = _Place(piece, self.columns)
                for batch in self._place.take(piece):
                    rows += batch.num_rows
                    yield batch
        except BaseException:
            self.close()  # the place is unknown
            raise
        if missing := piece.rows - rows:
            self.close()
            raise ShardError(f"changed while it was read: {missing} of {piece.rows} rows are gone")
        if not rows:
            yield self._place.schema.empty_table()

    def close(self) -> None:
        """Close the open shard, if there is one."""
        if self._place is not None:
            self._place.close()
            self._place = None


class _Place:
    """An open shard, decoded up to `row`."""

    def __init__(self, piece: Slice, columns: InputColumns) -> None:
        self.shard = piece.shard
        with ExitStack() as stack:
            file = stack.enter_context(piece.shard.open())
            opened = piece.shard.format.open(file, piece.start, piece.first_row, columns)
            self.schema, self.row, self.starts = opened.schema, opened.row, opened.starts
            self.batches = (batch for batch in opened.batches if batch.num_rows)
            self.rest: pa.RecordBatch | None = None  # decoded, not yet returned
            self.close = stack.pop_all().close

    def leads_to(self, piece: Slice) -> bool:
        """Whether continuing reaches the slice, and no later than opening it anew would."""
        within = self.starts[max(0, bisect_right(self.starts, piece.first_row) - 1)]
        start = max(within, piece.start.row)
        return self.shard == piece.shard and start <= self.row <= piece.first_row

    def take(self, piece: Slice) -> Iterator[pa.Table]:
        """The slice's rows in batches, or those that the shard has."""
        for some in together(self._parts(piece), lambda part: (part.num_rows, part.nbytes)):
            yield pa.Table.from_batches(some, self.schema)

    def _parts(self, piece: Slice) -> Iterator[pa.RecordBatch]:
        """The slice's rows as decoded."""
        stop = piece.first_row + piece.rows
        while self.row < stop and (batch := self.rest or next(self.batches, None)):
            first = max(0, piece.first_row - self.row)
            last = min(batch.num_rows, stop - self.row)
            self.row += last
            self.rest = batch.slice(last) if last < batch.num_rows else None
            if first < last:
                yield batch.select(self.schema.names).slice(first, last - first)
