"""Parquet: a footer says what there is, and row groups are where reading can begin."""

from bisect import bisect_right
from itertools import accumulate
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.input.batches import BATCH_BYTES, BATCH_ROWS, together
from pipelines.input.columns import InputColumns
from pipelines.input.formats.format import Opened, Scan, Start
from pipelines.input.unreadable import ShardError

#: Rows decoded at a time, or as many as there are columns, whose batches take time each. Few,
#: because a footer does not tell how long rows are: a text that repeats is in the file once.
_DECODE_ROWS = 64
#: Largest row group that is fetched in whole, and else the bytes of a column read at a time.
_FETCH_BYTES, _READ_BYTES = 256 << 20, 1 << 20


class Parquet:
    """See `Format`."""

    name, scanned, typed = "Parquet", False, True

    def scan(self, file: IO[bytes]) -> Scan:
        """By its footer."""
        parquet = pq.ParquetFile(file)
        footer = parquet.metadata
        rows = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        if (
            sum(rows) != footer.num_rows or min(rows, default=0) < 0
        ):  # some would be lost in silence
            raise ShardError(
                f"its footer says {footer.num_rows} rows, its row groups hold {sum(rows)}; "
                "write it again"
            )
        return Scan(int(footer.num_rows), parquet.schema_arrow)

    def open(self, file: IO[bytes], start: Start, row: int, columns: InputColumns) -> Opened:
        """From the start of the row's group on."""
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
        # Of the row groups; at last, the end.
        starts = list(accumulate((rows for rows, _ in weights), initial=0))
        first = max(0, bisect_right(starts, row, hi=len(starts) - 1) - 1)
        bytes_per_row = max((size // max(1, rows) for rows, size in weights), default=0)
        at_once = min(
            BATCH_ROWS,
            max(_DECODE_ROWS, len(names)),
            max(1, BATCH_BYTES // max(1, bytes_per_row)),
        )
        # Arrow keeps what it has fetched for a call until the next one.
        batches = (
            batch
            for run in together(range(first, len(weights)), weights.__getitem__)
            for batch in parquet.iter_batches(at_once, run, columns=names)
        )
        whole = names == schema.names
        wanted = pa.schema(
            [schema.field(name) for name in names], schema.metadata if whole else None
        )
        return Opened(wanted, starts[first], batches, starts[:-1] or [0])
