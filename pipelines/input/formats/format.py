"""What every format can do: say what a file holds, and read it from some place on."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple, Protocol

import pyarrow as pa

from pipelines.input.columns import InputColumns

#: A column that text formats add to what they read: why a row could not be read, null for others.
BROKEN = pa.field("\0broken", pa.string())


class Start(NamedTuple):
    """A place where reading can begin."""

    row: int = 0
    position: int = 0  # in bytes; of Arrow files, the batch


@dataclass(frozen=True)
class Scan:
    """What a file holds."""

    rows: int
    #: Its columns; of text formats, of the types that hold all of its values.
    schema: pa.Schema
    #: Beside its beginning, in order.
    starts: Sequence[Start] = ()

    def start(self, row: int) -> Start:
        """The last place before a row where reading can begin."""
        place = bisect_right(self.starts, row, key=lambda start: start.row)
        return self.starts[place - 1] if place else Start()


@dataclass(frozen=True)
class Opened:
    """An open file."""

    #: Of the batches, and their order of columns.
    schema: pa.Schema
    #: That of the first batch's first row.
    row: int
    batches: Iterator[pa.RecordBatch]
    #: Rows where reading can begin, where the file itself says so.
    starts: Sequence[int] = (0,)


class Format(Protocol):
    """How files of a format are read. Raises what Arrow and the store do, or ShardError."""

    #: For messages.
    name: str
    #: A file is scanned as a whole before it is read; else its footer says what it holds.
    scanned: bool
    #: Files say of which types their columns are.
    typed: bool

    def scan(self, file: IO[bytes]) -> Scan:
        """What a file holds."""
        ...

    def open(self, file: IO[bytes], start: Start, row: int, columns: InputColumns) -> Opened:
        """The columns' values from a place at or before a row on; `start` is the one of a scan."""
        ...
