"""Which rows of a slice are kept: the condition, asked of the file with its labels."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastbert.errors import FastBertError, InputError
from fastbert.filesystem import redacted
from pipelines.filter.labelled import LABEL, Labelled
from pipelines.input.columns import listed
from pipelines.input.slices import Slice
from pipelines.input.unreadable import ShardError
from pipelines.output.record import table_path
from pipelines.output.sets import Mask, one_line
from pipelines.output.storage import FOOTER_THREADS, Storage
from pipelines.reports.folders import FILE, folder_columns

_ROW = '"/row"'


@dataclass(frozen=True)
class Answer:
    """What the labels of a slice say."""

    kept: Mask  # of its rows
    carried: pa.Table  # the columns to add, of all rows


class Condition:
    """SQL that is true of the rows to keep, over the columns of the view `rows`.

    Each file is asked by itself, as far as it has columns that the condition or `carry` names; one
    that it lacks, and another file has, is null.
    """

    def __init__(
        self, where: str, carry: Sequence[str], storage: Storage, shards: Sequence[Labelled]
    ) -> None:
        """Raises InputError for what is no condition on the columns there are."""
        self.where, self.storage = where, storage
        self._connection = duckdb.connect(config={"python_enable_replacements": False})
        paths = [table_path(each.shard.name, 0) for each in shards]
        known = _columns(storage, paths)
        names = f"their columns are {listed([field.name for field in known.values()])}"
        if missing := [name for name in carry if name.casefold() not in known]:
            raise InputError(f"--carry is '{missing[0]}', which labelled rows do not have; {names}")
        self.carried = pa.schema([known[name.casefold()] for name in dict.fromkeys(carry)])
        named = where.casefold().replace('""', '"')
        self._fields = [field for name, field in known.items() if name in named]
        folders = folder_columns(self._connection, paths)
        self._folders = [
            sql for name, sql in folders.items() if name in named and name not in known
        ]
        try:
            self._rows(pa.schema(self._fields).empty_table().columns, 0, paths[0])
        except duckdb.Error as error:
            raise InputError(
                f"--where fails: {one_line(error)}; expected a condition on labelled rows; {names}"
            ) from error

    def answer(self, piece: Slice, version: str) -> Answer:
        """For the rows of a slice in this version of its shard.

        Raises ShardError if its labels are others now, and FastBertError where the condition fails
        on a value.
        """
        table = self._read(piece, version)
        kept = np.zeros(piece.rows, bool)
        columns = [_column(table, field) for field in self._fields]
        try:
            kept[self._rows(columns, piece.rows, piece.path)] = True
        except duckdb.Error as error:
            raise FastBertError(
                f"--where fails on a row of {redacted(piece.path)}: {one_line(error)}; expected a "
                "condition that holds for any value, as with try_cast"
            ) from error
        columns = [_column(table, field) for field in self.carried]
        return Answer(kept, pa.table(columns, self.carried))

    def _rows(self, columns: list[pa.ChunkedArray], rows: int, path: str) -> Any:
        """The numbers of the rows of which the condition is true."""
        names = [field.name for field in self._fields]
        named = dict(zip(names, columns, strict=True)) | {
            _ROW.strip('"'): pa.array(np.arange(rows)),
            FILE.strip('"'): pa.repeat(path, rows),
        }
        cursor = self._connection.cursor()  # of this thread alone
        cursor.register("labels", pa.table(named))
        chosen = ", ".join([f"* exclude ({FILE})", *self._folders])
        sql = f"select {_ROW} from (select {chosen} from labels) as rows where (\n{self.where}\n)"
        try:
            return cursor.sql(sql).to_arrow_table().column(0).to_numpy()
        finally:
            cursor.close()

    def _read(self, piece: Slice, version: str) -> pa.Table:
        """The columns that are needed of the labels of a slice. The file says itself whose they
        are: another run may be replacing it."""
        wanted = {field.name for field in (*self._fields, *self.carried)}
        data = self.storage.read([piece.path]).get(piece.path)
        try:
            file = None if data is None else pq.ParquetFile(pa.BufferReader(data))
            if file is not None and _is_of(file.metadata, piece, version):
                return file.read([name for name in file.schema_arrow.names if name in wanted])
        except (pa.ArrowException, OSError) as error:
            raise ShardError(
                f"has labels in {redacted(piece.path)} that cannot be read: {error}; remove that "
                f"file, {LABEL}, and filter again"
            ) from error
        raise ShardError(
            f"has other labels in {redacted(piece.path)} than the ledger said; filter again when "
            "no run is at work"
        )


def _columns(storage: Storage, paths: list[str]) -> dict[str, pa.Field]:
    """The columns of these files, by name in lower case, in the type of the first one with it."""
    known: dict[str, pa.Field] = {}
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        for footer in pool.map(storage.footer, paths):
            for field in footer.schema.to_arrow_schema() if footer else ():
                if known.setdefault(field.name.casefold(), field).type == pa.null():
                    known[field.name.casefold()] = field
    return known


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), field.type)])
    return table[field.name].cast(field.type)


def _is_of(footer: pq.FileMetaData, piece: Slice, version: str) -> bool:
    said = {key.decode(): value.decode() for key, value in (footer.metadata or {}).items()
            if key.startswith(b"fastbert.")}  # fmt: skip
    return footer.num_rows == piece.rows and said.get("fastbert.source_version") == version
