"""Parquet: a footer lists the content, and reading can begin at row groups."""

from bisect import bisect_right
from itertools import accumulate
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.input.batches import BATCH_BYTES, BATCH_ROWS, together
from pipelines.input.columns import InputColumns
from pipelines.input.formats.format import Opened, Scan, Start
from pipelines.input.unreadable import ShardError

#: Rows decoded at a time; at least the number of columns, because each column's batch takes time.
#: Few, because a footer does not give the length of rows: a repeated text is in the file once.
_DECODE_ROWS = 64
#: Largest row group that is fetched whole; of larger ones, bytes of a column read at a time.
_FETCH_BYTES, _READ_BYTES = 256 << 20, 1 << 20


class Parquet:
    """See `Format`."""

    name, scanned, typed = "Parquet", False, True

    def scan(self, file: IO[bytes]) -> Scan:
        """Reads the footer."""
        parquet = pq.ParquetFile(file)
        footer = parquet.metadata
        rows = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        if sum(rows) != footer.num_rows or min(rows, default=0) < 0:  # rows would be lost silently
            raise ShardError(
                f"its footer gives {footer.num_rows} rows, its row groups hold {sum(rows)}; write "
                "it again"
            )
        return Scan(int(footer.num_rows), parquet.schema_arrow)

    def open(self, file: IO[bytes], start: Start, row: int, columns: InputColumns) -> Opened:
        """Reads from the start of the row's row group on."""
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
        names = columns.read(schema)
        # First rows of the row groups; the last number is the end.
        starts = list(accumulate((rows for rows, _ in weights), initial=0))
        first = max(0, bisect_right(starts, row, hi=len(starts) - 1) - 1)
        bytes_per_row = max((size // max(1, rows) for rows, size in weights), default=0)
        at_once = min(
            BATCH_ROWS,
            max(_DECODE_ROWS, len(names)),
            max(1, BATCH_BYTES // max(1, bytes_per_row)),
        )
        # Arrow keeps the data fetched by a call until the next call.
        batches = (
            batch
            for run in together(range(first, len(weights)), weights.__getitem__)
            for batch in parquet.iter_batches(at_once, run, columns=names)
        )
        wanted = pa.schema([schema.field(name) for name in names], schema.metadata)
        return Opened(wanted, starts[first], batches, starts[:-1] or [0])
