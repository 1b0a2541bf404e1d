"""An Iceberg table that mirrors a labelled output.

Its files are its own, as those of the Delta table are. One run is one commit to the catalog. Where
it replaces rows, the history has two snapshots for it: the first one, without the old rows, was
never the current one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa
from pyiceberg import table as iceberg
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.expressions import In

from fastbert.errors import FastBertError, InputError, explained, first_line
from fastbert.filesystem import reaching
from pipelines.export.plan import HELD, OUTPUT, SELECT_HELD, Change, Overtaken, check_owner

#: Snapshot property that says which run it is of.
RUN = "fastbert.run_id"
#: pyiceberg would try again by itself, on a table that has changed since it was looked at.
_PROPERTIES = {"commit.retry.num-retries": "0"}
_LINEAGE = ("slice_id", "shard", "row", "run_id", "committed_at")
_OTHERS = (CommitFailedException, TableAlreadyExistsError, ValidationException)


class Iceberg:
    """The table CATALOG.NAMESPACE.TABLE, which need not exist yet, for the output at a URL; it does
    what `Delta` does. The catalog is one of pyiceberg's configuration, with its credentials."""

    def __init__(self, name: str, output: str) -> None:
        """InputError for another kind of name, or if the catalog is not configured."""
        self.name, self.output = name, output
        catalog, *self._identifier = name.split(".")
        if len(self._identifier) < 2 or not all(name.split(".")):
            raise InputError(f"--iceberg is '{name}', expected CATALOG.NAMESPACE.TABLE")
        with self._reaching("reached"):
            self._catalog: Catalog = load_catalog(catalog)
        self._table: iceberg.Table | None = None

    def held(self) -> pa.Table:
        """What the current snapshot holds; later calls are about this one, up to the next."""
        with self._reaching("read"):
            try:
                self._table = self._catalog.load_table(tuple(self._identifier))
            except (NoSuchTableError, NoSuchNamespaceError):
                self._table = None
                return HELD.empty_table()
            owner = self._table.properties.get(OUTPUT)
            check_owner(f"Iceberg table {self.name}", owner, self.output)
            rows = self._table.scan(selected_fields=_LINEAGE).to_arrow_batch_reader()
            with duckdb.connect() as connection:
                connection.register("exported", rows)
                found: pa.Table = connection.sql(SELECT_HELD).to_arrow_table()
        return found.select(HELD.names).cast(HELD)

    @property
    def version(self) -> int | None:
        """The id of the current snapshot; None if there is none."""
        return None if self._table is None else self._table.metadata.current_snapshot_id

    def schema(self) -> pa.Schema:
        """Its columns; none if there is no table."""
        known = pa.schema([]) if self._table is None else self._table.schema().as_arrow()
        return pa.schema([(field.name, field.type) for field in known])

    def commit(self, change: Change, rows: pa.RecordBatchReader) -> None:
        """Commit a change with its rows, or nothing at all; Overtaken as of `Delta.commit`."""
        try:
            with self._reaching("written"):
                if self._table is None:
                    self._table = self._create(rows.schema)
                self._write(self._table, change, rows)
        except FastBertError as error:
            if isinstance(error.__cause__, _OTHERS):
                raise Overtaken(first_line(error.__cause__)) from error
            raise

    def _create(self, schema: pa.Schema) -> iceberg.Table:
        self._catalog.create_namespace_if_not_exists(tuple(self._identifier[:-1]))
        properties = {OUTPUT: self.output, **_PROPERTIES}
        return self._catalog.create_table(
            tuple(self._identifier), schema=schema, properties=properties
        )

    def _write(self, table: iceberg.Table, change: Change, rows: pa.RecordBatchReader) -> None:
        says = {} if change.run_id is None else {RUN: change.run_id}
        replaced = In("slice_id", sorted(change.removed))
        with table.transaction() as transaction:
            if new := {*rows.schema.names} - {*self.schema().names}:
                fields = [field for field in rows.schema if field.name in new]
                with transaction.update_schema() as update:
                    update.union_by_name(pa.schema(fields))
            if not change.added:
                transaction.delete(replaced, snapshot_properties=says)
            elif change.removed:
                transaction.overwrite(rows, replaced, snapshot_properties=says)
            else:
                transaction.append(rows, snapshot_properties=says)

    @contextmanager
    def _reaching(self, done: str) -> Iterator[None]:
        what = f"the Iceberg table {self.name} cannot be {done}"
        advice = (
            f"look at the catalog '{self.name.split('.')[0]}' in pyiceberg's configuration, "
            "~/.pyiceberg.yaml or PYICEBERG_CATALOG__…"
        )
        with explained(what, advice, ValueError, ImportError), reaching(what, advice):
            yield
