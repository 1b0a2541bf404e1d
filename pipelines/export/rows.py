"""Labelled rows as an exported table has them: with their lineage, in types that it knows."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from fastbert.errors import FastBertError, InputError, explained
from pipelines.export.plan import Commit
from pipelines.output.ledger import Ledger
from pipelines.output.sets import Sets
from pipelines.output.storage import FOOTER_THREADS, Storage

#: Added after the columns of `table/`: where a row is from. A column that is called like one of
#: these is exported as `input_NAME`.
LINEAGE = pa.schema(
    [
        ("shard", pa.string()),
        ("row", pa.int64()),  # its place in the shard, from 0: the table has no order of its own
        ("slice_id", pa.string()),  # as in ledger/ and stats/
        ("run_id", pa.string()),
        ("committed_at", pa.string()),  # of the slice; UTC, ISO 8601
    ]
)

#: What stands for types that the tables do not have: the nearest one that holds all values.
_NEAREST: list[tuple[Callable[[Any], bool], Callable[[Any], pa.DataType]]] = [
    (types.is_uint8, lambda kind: pa.int16()),
    (types.is_uint16, lambda kind: pa.int32()),
    (types.is_uint32, lambda kind: pa.int64()),
    (types.is_uint64, lambda kind: pa.decimal128(20, 0)),
    (types.is_float16, lambda kind: pa.float32()),
    (lambda kind: types.is_decimal(kind) and kind.precision > 38, lambda kind: pa.string()),
    (types.is_decimal, lambda kind: pa.decimal128(kind.precision, kind.scale)),
    (types.is_timestamp, lambda kind: pa.timestamp("us", "UTC" if kind.tz else None)),
    (types.is_date, lambda kind: pa.date32()),
    (types.is_duration, lambda kind: pa.int64()),
    (types.is_time, lambda kind: pa.string()),
    (types.is_large_string, lambda kind: pa.string()),
    (types.is_string_view, lambda kind: pa.string()),
    (types.is_large_binary, lambda kind: pa.binary()),
    (types.is_binary_view, lambda kind: pa.binary()),
    (types.is_fixed_size_binary, lambda kind: pa.binary()),
]

_NULL = pa.null()


#: What tells a commit from any other one of its slice.
_SAME = "shard, first_row, run_id, committed_at"


class OutputChanged(FastBertError):
    """The output is not what its ledger said when the export began (exit code 1)."""


def columns_of(storage: Storage, commits: list[Commit]) -> pa.Schema:
    """The columns of these commits together, and the lineage; InputError if they contradict.

    One without a type, as no shard has a value of it, is left out.
    """
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        schemas = list(pool.map(lambda commit: _schema(storage, commit), commits))
    try:
        together = pa.unify_schemas([*schemas, LINEAGE], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(
            f"the output's shards do not fit into one table: {error}; expected the same type in "
            "all, so label those with another one into another output"
        ) from error
    return pa.schema([field for field in together if not types.is_null(field.type)])


def fitting(columns: pa.Schema, table: pa.Schema) -> pa.Schema:
    """The columns of an exported table, and those that are new to it after them.

    Raises InputError where the table could not hold all values of a column.
    """
    kinds = {field.name: field.type for field in columns}
    for field in table:
        kind = kinds.pop(field.name, field.type)
        if not _holds(field.type, kind):
            raise InputError(
                f"column '{field.name}' is {kind} in the output, and {field.type} in the exported "
                "table, which would lose values; export to another table"
            )
    # Lists without any element have no type of it: it is taken for a string.
    new = [columns.field(name) for name in kinds]
    new = [field.with_type(_storable(field.type, pa.string())) for field in new]
    together = [*table, *new]
    times = Counter(field.name.casefold() for field in together)
    if twice := [field.name for field in together if times[field.name.casefold()] > 1]:
        raise InputError(
            f"columns {', '.join(twice)} differ in case only, which tables do not tell apart; "
            "rename one in the input, or leave it out with --carry of fastbert label"
        )
    return pa.schema(together)


class Rows:
    """The rows of commits, slice by slice: no more than one of them is in memory.

    Keeps the exception that ends it, as writers in other languages pass on its text only.
    """

    def __init__(
        self,
        ledger: Ledger,
        commits: list[Commit],
        schema: pa.Schema,
        advance: Callable[[int], None],
    ) -> None:
        self.ledger, self.commits, self.schema, self.advance = ledger, commits, schema, advance
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            for commit in self.commits:
                yield from self._rows(commit).to_batches()
                self.advance(commit.rows)
            self._check()
        except BaseException as error:
            self.failure = error
            raise

    def _rows(self, commit: Commit) -> pa.Table:
        table = _read(self.ledger.storage, commit)
        columns = dict(zip(_names(table.schema), table.columns, strict=True))
        for name in set(LINEAGE.names) - {"row"}:
            columns[name] = pa.repeat(getattr(commit, name), commit.rows)
        columns["row"] = pa.array(range(commit.first_row, commit.first_row + commit.rows))
        return pa.table([_cast(columns, f, commit) for f in self.schema], schema=self.schema)

    def _check(self) -> None:
        """Raise OutputChanged unless the ledger still has all of them.

        A slice's record is withdrawn before its rows are replaced. If it is the same after its
        rows were read, they are its rows: no run needs to be locked out while others export.
        """
        mine = pa.Table.from_pylist([vars(commit) for commit in self.commits])
        if len(mine):
            with Sets(mine=mine, now=self.ledger.recorded()) as sets:
                same = sets.mask("mine", f"select n from mine semi join now using ({_SAME})")
            for place in (~same).nonzero()[0][:1]:
                raise _changed(self.commits[place])


def _cast(columns: dict[str, pa.Array], field: pa.Field, commit: Commit) -> pa.Array:
    """A column in the type of the exported table; nulls if there is none."""
    if field.name not in columns:
        return pa.nulls(commit.rows, field.type)
    # Times of nanoseconds become such of microseconds: the tables have no others.
    options = pc.CastOptions(field.type, allow_time_truncate=True)
    try:
        return pc.cast(columns[field.name], options=options)
    except pa.ArrowException as error:
        raise InputError(
            f"column '{field.name}' of {commit.path} cannot be exported as {field.type}: {error}; "
            "leave it out with --carry of fastbert label"
        ) from error


def _changed(commit: Commit) -> OutputChanged:
    return OutputChanged(
        f"{commit.path} is not what the ledger said when the export began; nothing of run "
        f"{commit.run_id} was exported: export again when no run is at work"
    )


def _read(storage: Storage, commit: Commit) -> pa.Table:
    """The labelled rows of a commit; InputError if their file is damaged."""
    data = storage.read([commit.path]).get(commit.path)
    advice = (
        f"nothing of run {commit.run_id} was exported: remove the file, run fastbert label, which "
        "labels its rows again, and export again"
    )
    with explained(f"{commit.path} cannot be read as Parquet", advice, pa.ArrowException, OSError):
        table = None if data is None else pq.read_table(pa.BufferReader(data))
    if table is None or table.num_rows != commit.rows:
        raise _changed(commit)
    return table


def _schema(storage: Storage, commit: Commit) -> pa.Schema:
    """The columns of a slice under the names and in the types that they are exported in."""
    footer = storage.footer(commit.path)  # without, it is gone or damaged: all of it says which
    schema = footer.schema.to_arrow_schema() if footer else _read(storage, commit).schema
    names = _names(schema)
    return pa.schema(
        [
            field.with_name(name).with_type(_storable(field.type)).with_metadata(_classes(field))
            for name, field in zip(names, schema, strict=True)
        ]
    )


def _classes(field: pa.Field) -> dict[bytes, bytes] | None:
    """Of a column's metadata, the names of the classes that it has numbers of."""
    found = {key: value for key, value in (field.metadata or {}).items() if key == b"classes"}
    return found or None


def _names(schema: pa.Schema) -> list[str]:
    return [f"input_{name}" if name in LINEAGE.names else name for name in schema.names]


def _storable(kind: pa.DataType, untyped: pa.DataType = _NULL) -> pa.DataType:
    """The type that stands for `kind` in an exported table."""
    inner = partial(_storable, untyped=untyped)
    if isinstance(kind, pa.BaseExtensionType):
        return inner(kind.storage_type)
    if types.is_dictionary(kind):
        return inner(kind.value_type)
    if types.is_null(kind):
        return untyped
    if types.is_map(kind):
        return pa.map_(inner(kind.key_type), inner(kind.item_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, inner(field.type)) for field in kind])
    if types.is_nested(kind) and kind.num_fields == 1:  # lists of any kind
        return pa.list_(pa.field("element", inner(kind.value_type)))
    return next((nearest(kind) for is_one, nearest in _NEAREST if is_one(kind)), kind)


def _holds(wide: pa.DataType, narrow: pa.DataType) -> bool:
    """Whether each value of type `narrow` is also one of `wide`."""
    schemas = [pa.schema([("x", kind)]) for kind in (wide, narrow)]
    try:
        return bool(pa.unify_schemas(schemas, promote_options="permissive").field("x").type == wide)
    except pa.ArrowException:
        return False
