"""CSV and TSV with a header line, as Python's `csv` reads them. Blank lines are no rows.

A quoted cell may span lines. If it does not end within 64 MiB, its quote counts as a mistake: its
line has an error, and reading continues with the next line.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.input.batches import BATCH_ROWS
from pipelines.input.columns import InputColumns
from pipelines.input.formats.format import BROKEN, Opened, Scan, Start
from pipelines.input.formats.text import BLOCK_BYTES, Block, blocks
from pipelines.input.unreadable import ShardError

#: Longest quoted cell, and possible separators, the likeliest first.
_LONGEST_CELL = 64 << 20
_SEPARATORS = ",;\t|"
#: Cells that can be numbers or booleans without loss.
_WRITTEN = {
    pa.int64(): r"^-?(0|[1-9][0-9]{0,17})$",
    pa.float64(): r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,16})?(e[+-][0-9]{2,3})?$",
    pa.bool_(): r"^([Tt]rue|[Ff]alse)$",
}


@dataclass(frozen=True)
class Record:
    """A row as it is in the file."""

    offset: int  # of its first byte, where the file is not compressed
    cells: list[str]  # bytes that are not UTF-8 are escaped as lone surrogates
    error: str | None = None


@dataclass(frozen=True)
class Delimited:
    """See `Format`."""

    compression: str | None = None
    separator: str | None = None
    name, scanned, typed = "CSV", True, False

    def scan(self, file: IO[bytes]) -> Scan:
        """Reads all lines."""
        names, records = self._records(file, 0)
        kinds = [set(_WRITTEN) for _ in names]
        filled = [False for _ in names]
        starts = [Start()]
        rows = 0
        while some := list(islice(records, BATCH_ROWS)):
            good = [record.cells for record in some if _error(record, names) is None]
            for place, values in enumerate(zip(*good, strict=True)):
                cells = [value for value in values if value]
                filled[place] |= bool(cells)
                if kinds[place]:
                    text = pa.array(cells, pa.string())
                    for kind in [*kinds[place]]:
                        if not pc.all(pc.match_substring_regex(text, _WRITTEN[kind])).as_py():
                            kinds[place].discard(kind)
            for number, record in enumerate(some):
                if record.offset >= starts[-1].position + BLOCK_BYTES:
                    starts.append(Start(rows + number, record.offset))
            rows += len(some)
        found = [
            next((kind for kind in _WRITTEN if kind in left), None) if some else None
            for left, some in zip(kinds, filled, strict=True)
        ]
        fields = [
            pa.field(name, kind or pa.string()) for name, kind in zip(names, found, strict=True)
        ]
        return Scan(rows, pa.schema(fields), [] if self.compression else starts[1:])

    def open(self, file: IO[bytes], start: Start, row: int, columns: InputColumns) -> Opened:
        """Reads from a row on."""
        names, records = self._records(file, start.position)
        schema = pa.schema([field.remove_metadata() for field in columns.read_fields()])

        def batches() -> Iterator[pa.RecordBatch]:
            while some := list(islice(records, BATCH_ROWS)):
                yield _batch(some, names, schema)

        return Opened(pa.schema([*schema, BROKEN]), start.row, batches())

    def _records(self, file: IO[bytes], position: int) -> tuple[list[str], Iterator[Record]]:
        """The names of the columns, and the records from `position` on, where a record begins."""
        header = _Cells(blocks(file, self.compression), ",")
        first = header.line()
        line = first.decode(errors="surrogateescape")
        separator = self.separator or max(_SEPARATORS, key=line.count)
        header.separator = separator
        header.give_back(first)
        found = next(iter(header), None)
        if found is None:
            return [], iter(())
        names = found.cells
        if found.error or not all(map(_is_text, names)):
            raise ShardError(f"has no header line: {found.error or 'it is not UTF-8'}")
        if position:
            return names, iter(_Cells(blocks(file, None, position), separator))
        return names, iter(header)


class _Cells:
    """Iterator over records and their offsets."""

    def __init__(self, parts: Iterator[Block], separator: str) -> None:
        self.separator = separator
        first = next(parts, Block(0, b""))
        self.position = first.offset
        self._lines = (line for part in chain([first], parts) for line in part.lines())
        self._waiting: list[bytes] = []  # the next one last
        self._taken: list[bytes] = []  # of this record
        self._size = 0

    def line(self) -> bytes:
        """The next line; empty at the end."""
        return self._waiting.pop() if self._waiting else next(self._lines, b"")

    def give_back(self, *lines: bytes) -> None:
        """Put lines back, to be read again."""
        self._waiting += reversed([line for line in lines if line])

    def _pull(self) -> Iterator[str]:
        while line := self.line():
            self._taken.append(line)
            self._size += len(line)
            if self._size > _LONGEST_CELL and len(self._taken) > 1:
                raise _Unclosed
            yield line.decode(errors="surrogateescape")
        if self._taken:  # csv takes a further line only within quotes
            raise _Unclosed

    def __iter__(self) -> Iterator[Record]:
        csv.field_size_limit(sys.maxsize)
        reader = self._reader()
        while True:
            begin = self.position
            self._taken, self._size = [], 0
            record: Record | None = None
            try:
                cells = next(reader, None)
                if cells is None:
                    return
                if cells:  # not a blank line
                    record = Record(begin, cells)
            except (_Unclosed, csv.Error) as error:
                reason = error if isinstance(error, csv.Error) else "a quote is not closed"
                self.give_back(*self._taken[1:])
                self._taken = self._taken[:1]
                reader = self._reader()
                record = Record(begin, [], f"line is not CSV: {reason}")
            self.position += sum(map(len, self._taken))
            if record:
                yield record

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(self._pull(), delimiter=self.separator, strict=False)


class _Unclosed(Exception):
    """A quoted cell is too long."""


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _error(record: Record, names: list[str]) -> str | None:
    """Why a record is not a row; None if it is one."""
    if record.error:
        return record.error
    if len(record.cells) != len(names):
        return f"line has {len(record.cells)} cells, expected {len(names)}"
    for name, cell in zip(names, record.cells, strict=True):
        if not cell.isascii() and not _is_text(cell):
            return f"column '{name}' is not UTF-8"
    return None


def _batch(some: list[Record], names: list[str], schema: pa.Schema) -> pa.RecordBatch:
    """Records as rows, in order; invalid ones have an error."""
    errors = [_error(record, names) for record in some]
    good = [record.cells for record, error in zip(some, errors, strict=True) if error is None]
    columns = dict(zip(names, zip(*good, strict=True), strict=True)) if good else {}
    places = pa.array(_places(errors), pa.int32())
    arrays = [
        _typed(columns[field.name], field.type).take(places)
        if field.name in columns
        else pa.nulls(len(some), field.type)
        for field in schema
    ]
    wrong = pa.array(errors, BROKEN.type)
    return pa.record_batch([*arrays, wrong], pa.schema([*schema, BROKEN]))


def _places(errors: list[str | None]) -> Iterator[int | None]:
    """For each row, its place among those without an error."""
    place = count()
    return (next(place) if error is None else None for error in errors)


def _typed(cells: Sequence[str], kind: pa.DataType) -> pa.Array:
    """Cells as values of a type; empty cells become null."""
    text = pa.array(cells, pa.string())
    if pa.types.is_string(kind):
        return text
    written = pc.match_substring_regex(text, _WRITTEN[kind])
    if not pc.all(pc.or_(written, pc.equal(text, ""))).as_py():
        raise ShardError(f"changed while it was read: a cell is no longer {kind}")
    return pc.if_else(written, text, None).cast(kind)
