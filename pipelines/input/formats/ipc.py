"""Arrow's formats: files of batches (Feather), and streams (Hugging Face `datasets`)."""

from collections.abc import Iterator
from itertools import accumulate
from typing import IO

import pyarrow as pa

from pipelines.input.columns import InputColumns
from pipelines.input.formats.format import Opened, Scan, Start
from pipelines.input.unreadable import ShardError

_FILE, _FEATHER_1 = b"ARROW1", b"FEA1"


class Arrow:
    """See `Format`. In a stream, all batches before a row are also read."""

    name, scanned, typed = "Arrow", True, True

    def scan(self, file: IO[bytes]) -> Scan:
        """Reads and checks each batch."""
        seekable, schema, batches = _batches(file, 0)
        ends = [*accumulate((batch.num_rows for batch in batches), initial=0)]
        starts = [Start(row, place) for place, row in enumerate(ends)][1:-1]
        return Scan(ends[-1], schema, starts if seekable else [])

    def open(self, file: IO[bytes], start: Start, row: int, columns: InputColumns) -> Opened:
        """Reads from the start of a batch on."""
        _, schema, batches = _batches(file, start.position)
        names = columns.read(schema)
        wanted = pa.schema([schema.field(name) for name in names], schema.metadata)
        return Opened(wanted, start.row, (batch.select(names) for batch in batches))


def _batches(file: IO[bytes], first: int) -> tuple[bool, pa.Schema, Iterator[pa.RecordBatch]]:
    """Whether reading can begin at any batch, the columns, and the batches from `first` on. Lengths
    in a batch are checked, because reading beyond its end would end the process."""
    magic = file.read(6)
    file.seek(0)
    if magic[:4] == _FEATHER_1:
        raise ShardError("is of Feather's version 1; write it with version 2")
    if magic == _FILE:
        reader = pa.ipc.open_file(file)
        batches = (reader.get_batch(k) for k in range(first, reader.num_record_batches))
        return True, reader.schema, map(_checked, batches)
    stream = pa.ipc.open_stream(file)
    return False, stream.schema, map(_checked, stream)


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    batch.validate(full=True)
    return batch
