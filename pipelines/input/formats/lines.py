"""JSON Lines: an object in each line. Blank lines are skipped.

Arrow reads many lines at a time. If it refuses them, each half is tried, down to single lines. A
single line that it refuses is read with `json`, or has an error. So no row depends on other lines.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
from pyarrow import json as arrow_json

from pipelines.input.columns import InputColumns
from pipelines.input.formats.fields import fitted, merged, settled
from pipelines.input.formats.format import BROKEN, Opened, Scan, Start
from pipelines.input.formats.text import Block, blocks
from pipelines.input.unreadable import ShardError

#: Number of nested objects and lists in a line at which Arrow would overflow the stack.
_MOST_OPEN = 500


@dataclass(frozen=True)
class JsonLines:
    """See `Format`."""

    compression: str | None = None
    name, scanned, typed = "JSON Lines", True, False

    def scan(self, file: IO[bytes]) -> Scan:
        """Reads all lines."""
        rows, starts, schema, first = 0, [], pa.schema([]), None
        for block in blocks(file, self.compression):
            if not rows:
                _check_begin(block.data)
            if not self.compression:
                starts.append(Start(rows, block.offset))
            lines = _lines(block)
            rows += len(lines)
            first = first or (lines[0] if lines else None)
            schema = merged([schema, *_schemas(lines)])
        if rows and not schema.names:
            raise ShardError(f"has no object in any line; the first {_read(first or b'')[1]}")
        return Scan(rows, schema, starts)

    def rows(self, file: IO[bytes]) -> Iterator[bytes]:
        """The lines that are rows, as they stand there."""
        for block in blocks(file, self.compression):
            yield from _lines(block)

    def open(self, file: IO[bytes], start: Start, row: int, columns: InputColumns) -> Opened:
        """Reads from a line on."""
        schema = columns.read_fields()
        texts = set(columns.texts)
        mixed = any(field.metadata and field.name not in texts for field in schema)
        bare = pa.schema([field.remove_metadata() for field in schema])

        def batches() -> Iterator[pa.RecordBatch]:
            at = start.row
            for block in blocks(file, self.compression, start.position):
                lines = _lines(block)
                at += len(lines)
                if at <= row:  # before the wanted rows
                    yield pa.record_batch(
                        [pa.nulls(len(lines), field.type) for field in [*bare, BROKEN]],
                        schema=pa.schema([*bare, BROKEN]),
                    )
                    continue
                yield from _batches(lines, bare, texts, by_hand=mixed)

        return Opened(pa.schema([*bare, BROKEN]), start.row, batches())


def _check_begin(data: bytes) -> None:
    """Raises ShardError for a file of JSON that is not JSON Lines."""
    if data.lstrip()[:1] == b"[":
        raise ShardError(
            "is one JSON array, expected an object in each line; convert it, as with jq -c '.[]'"
        )
    if data.split(b"\n", 1)[0].strip() == b"{":
        raise ShardError(
            "has objects over several lines, expected one in each line; convert it, as with jq -c ."
        )


def _lines(block: Block) -> list[bytes]:
    """The lines that are rows."""
    return [line for line in block.lines() if line[:1] == b"{" or line.strip()]


def _is_object(line: bytes) -> bool:
    """Whether the line looks like an object. Arrow does not look for ends of lines; it then finds
    at least one object in each such line, and none that continues in the next."""
    return line[:1] == b"{" and line.rstrip()[-1:] == b"}"


def _table(lines: list[bytes], schema: pa.Schema | None) -> pa.Table:
    """The lines as Arrow reads them; raises ArrowInvalid if it fails, or does not find one row per
    line."""
    if not all(map(_is_object, lines)):
        raise pa.ArrowInvalid("no objects")
    data = b"".join(line if line[-1:] == b"\n" else line + b"\n" for line in lines)
    table = arrow_json.read_json(
        pa.BufferReader(data),
        arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        arrow_json.ParseOptions(
            explicit_schema=schema,
            unexpected_field_behavior="infer" if schema is None else "ignore",
        ),
    )
    if len(table) != len(lines):
        raise pa.ArrowInvalid("the numbers of objects and lines differ")
    if schema is not None:
        table.validate(full=True)  # Arrow does not check UTF-8 while reading
    return table


def _schemas(lines: list[bytes]) -> Iterator[pa.Schema]:
    """The columns of lines."""
    if not lines:
        return
    try:
        if any(line.count(b"[") + line.count(b"{") > _MOST_OPEN for line in lines):
            raise pa.ArrowInvalid("possibly deep")
        found = [_table(lines, None).schema]
    except (pa.ArrowException, UnicodeError):
        found = []
        for line in lines:
            values, _ = _read(line)
            found.append(pa.schema([(key, _kind(value)) for key, value in values.items()]))
    for schema in found:
        yield pa.schema([(field.name, settled(field.type)) for field in schema])


def _kind(value: Any) -> pa.DataType:
    try:
        return pa.infer_type([value])
    except (pa.ArrowException, OverflowError, UnicodeError):
        return pa.string()


def _batches(
    lines: list[bytes], schema: pa.Schema, texts: set[str], by_hand: bool
) -> Iterator[pa.RecordBatch]:
    """The rows of lines, in order."""
    waiting = [lines] if lines else []
    while waiting:
        some = waiting.pop()
        if not by_hand:
            try:
                table = _table(some, schema)
            except (pa.ArrowException, UnicodeError):
                if len(some) > 1:
                    middle = len(some) // 2
                    waiting += [some[middle:], some[:middle]]
                    continue
            else:
                table = table.append_column(BROKEN, pa.nulls(len(table), BROKEN.type))
                yield from table.to_batches()
                continue
        yield _by_hand(some, schema, texts)


def _by_hand(lines: list[bytes], schema: pa.Schema, texts: set[str]) -> pa.RecordBatch:
    rows = []
    for line in lines:
        values, error = _read(line)
        row: dict[str, Any] = {}
        for field in schema if error is None else ():
            value = values.get(field.name)
            try:
                if field.name in texts and not isinstance(value, str | None):
                    raise ValueError(f"is {json.dumps(value)[:40]}, expected a string")
                row[field.name] = fitted(value, field.type)
            except (ValueError, OverflowError, RecursionError) as found:
                error = f"field '{field.name}' {found}"
        rows.append((row if error is None else {}) | {BROKEN.name: error})
    return pa.RecordBatch.from_pylist(rows, pa.schema([*schema, BROKEN]))


def _read(line: bytes) -> tuple[dict[str, Any], str | None]:
    """The object in a line, and an error if there is none."""
    try:
        found = json.loads(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return {}, f"line is not UTF-8: {error.reason} at byte {error.start}"
    except ValueError as error:
        return {}, f"line is not JSON: {error}"
    except RecursionError:
        return {}, "line has too many nested objects or lists"
    if not isinstance(found, dict):
        return {}, f"line is JSON, expected an object: {line[:40].decode(errors='replace').strip()}"
    if any("\ud800" <= letter <= "\udfff" for letter in "".join(found)):
        return {}, "line has a name that is not UTF-8"
    return found, None
