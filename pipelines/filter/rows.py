"""The kept rows of a shard: read from the input, and written in a format."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.filter.condition import Answer
from pipelines.input.batches import together
from pipelines.input.columns import InputColumns
from pipelines.input.formats.format import BROKEN
from pipelines.input.formats.lines import JsonLines
from pipelines.input.shards import Shard
from pipelines.input.slices import Slice, SliceReader
from pipelines.input.unreadable import ShardError, reading

#: Rows of a row group, at most.
_GROUP_ROWS = 1 << 16
#: What JSON has no type for is written as text; numbers of nanoseconds are of pandas.
_ENCODER = msgspec.json.Encoder(enc_hook=lambda value: value.isoformat())

#: Of all slices of a shard, in order.
Answers = Iterable[tuple[Slice, Answer]]


class EveryColumn(InputColumns):
    """All columns of a shard, as they are; no text is looked at."""

    @property
    def texts(self) -> list[str]:
        """None."""
        return []

    def carried(self, schema: pa.Schema) -> dict[str, str]:
        """Each column under its own name. Raises ShardError where two have the same one."""
        if twice := {name for name in schema.names if schema.names.count(name) > 1}:
            raise ShardError(f"has more than one column '{min(twice)}'; rename one")
        return {name: name for name in schema.names}


def kept_tables(answers: Answers, columns: EveryColumn) -> Iterator[pa.Table]:
    """The kept rows as tables, none of them empty: all columns of the input, and those that are
    carried. Raises ShardError if the shard cannot be read, or has a carried column itself."""
    with closing(SliceReader(columns)) as reader:
        for piece, answer in answers:
            if not answer.kept.any():
                continue
            first = 0
            for rows in reader.read(piece):
                if BROKEN.name in rows.column_names:
                    rows = rows.drop_columns(BROKEN.name)
                check_apart(answer.carried.schema, rows.column_names)
                for name in answer.carried.column_names:
                    rows = rows.append_column(
                        answer.carried.schema.field(name),
                        answer.carried[name].slice(first, len(rows)),
                    )
                mask = answer.kept[first : first + len(rows)]
                first += len(rows)
                if mask.any():
                    yield rows.filter(pa.array(mask))


def kept_lines(shard: Shard, answers: Answers, fields: pa.Schema) -> Iterator[list[bytes]]:
    """The kept lines of a shard of JSON Lines as they stand there, with what is carried at the end
    of their objects; errors as of `kept_tables`. `fields` are those of all such shards."""
    format = shard.format
    assert isinstance(format, JsonLines)
    with shard.open() as file:
        lines = format.rows(file)
        for piece, answer in answers:
            check_apart(answer.carried.schema, fields.names)
            with reading(format.name):
                some = list(islice(lines, piece.rows))
            if len(some) < piece.rows:
                raise ShardError(f"changed while it was read: it has {len(some)} rows fewer")
            more = answer.carried.to_pylist() if answer.carried.num_columns else None
            chosen = [
                _with(some[row], more[row] if more else None) for row in answer.kept.nonzero()[0]
            ]
            if chosen:
                yield chosen


def check_apart(carried: pa.Schema, names: list[str]) -> None:
    """Raise ShardError where a column of the input has the name of one that is carried."""
    own = {name.casefold() for name in names}
    if both := [name for name in carried.names if name.casefold() in own]:
        raise ShardError(
            f"has a column '{both[0]}' itself, which --carry would add; leave it out of --carry, "
            "or rename the input's"
        )


def _with(line: bytes, more: dict[str, Any] | None) -> bytes:
    """A line with more at the end of its object. What is no object stays as it is."""
    line = line.rstrip(b"\r\n")
    whole = line.rstrip()
    if more is None or whole[:1] != b"{" or whole[-1:] != b"}":
        return line + b"\n"
    begin = whole[:-1].rstrip()
    return begin + (b"" if begin == b"{" else b",") + _ENCODER.encode(more)[1:] + b"\n"


def as_lines(tables: Iterable[pa.Table]) -> Iterator[list[bytes]]:
    """Each row as an object in a line. Raises ShardError for strings that are not UTF-8."""
    for table in tables:
        try:
            yield [_ENCODER.encode(row) + b"\n" for row in table.to_pylist()]
        except UnicodeDecodeError as error:
            raise ShardError(
                f"has a string that is not UTF-8 ({error.reason}); pass --format parquet"
            ) from error


def write_lines(path: str, parts: Iterable[list[bytes]], compression: str | None) -> None:
    """Write lines to a local file."""
    with pa.output_stream(path, compression=compression) as stream:
        for lines in parts:
            stream.write(b"".join(lines))


def write_parquet(path: str, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema to a local file, zstd-compressed, few of them in memory. Raises
    ShardError for types that Parquet does not have."""
    writer = None
    try:
        for some in together(tables, lambda table: (len(table), table.nbytes), _GROUP_ROWS):
            if writer is None:
                writer = pq.ParquetWriter(path, some[0].schema, compression="zstd")
            writer.write_table(pa.concat_tables(some))
    except pa.ArrowException as error:
        raise ShardError(f"cannot be kept as Parquet: {error}; pass --format jsonl") from error
    finally:
        if writer is not None:
            writer.close()
