"""Interface of all formats: scan a file, and read it from a given place on."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple, Protocol

import pyarrow as pa

from pipelines.input.columns import InputColumns

#: A column that text formats add: why a row could not be read, null for good rows.
BROKEN = pa.field("\0broken", pa.string())


class Start(NamedTuple):
    """A place where reading can begin."""

    row: int = 0
    position: int = 0  # in bytes; of Arrow files, the batch


@dataclass(frozen=True)
class Scan:
    """What a file holds."""

    rows: int
    #: Its columns; in text formats, with types that hold all values.
    schema: pa.Schema
    #: Places other than the beginning, in order.
    starts: Sequence[Start] = ()

    def start(self, row: int) -> Start:
        """The last place before a row where reading can begin."""
        place = bisect_right(self.starts, row, key=lambda start: start.row)
        return self.starts[place - 1] if place else Start()


@dataclass(frozen=True)
class Opened:
    """An open file."""

    #: Schema of the batches.
    schema: pa.Schema
    #: Number of the first batch's first row.
    row: int
    batches: Iterator[pa.RecordBatch]
    #: Rows where reading can begin, if the file itself lists them.
    starts: Sequence[int] = (0,)


class Format(Protocol):
    """How files of a format are read. Raises errors of Arrow and the store, and ShardError."""

    #: Name, for messages.
    name: str
    #: Whether the whole file is scanned before it is read; if not, its footer is enough.
    scanned: bool
    #: Whether files have the types of their columns.
    typed: bool

    def scan(self, file: IO[bytes]) -> Scan:
        """What a file holds."""
        ...

    def open(self, file: IO[bytes], start: Start, row: int, columns: InputColumns) -> Opened:
        """The columns' values from `start` on, a place of a scan at or before the row."""
        ...
