"""A Delta table that mirrors a labelled output.

Its files are its own. Delta could also list files of `table/` where they lie, without copying them,
but labelling writes over these and removes them, which would break the older versions that Delta
promises to keep; it could not compact them; and they do not say which slice a row is of.
"""

import re
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from fastbert.errors import FastBertError, InputError, first_line
from fastbert.filesystem import redacted
from pipelines.export.plan import HELD, OUTPUT, SELECT_HELD, Change, Overtaken, check_owner

#: Delta lets only one of two transactions of an application happen that began at one version.
APPLICATION = "fastbert-ray"


class Delta:
    """The table at `url`, which need not exist yet, for the output at another URL.

    Credentials and endpoints are taken from the environment: AWS_*, GOOGLE_* or AZURE_*.
    """

    def __init__(self, url: str, output: str) -> None:
        self.url, self.output = url, output
        self._table: DeltaTable | None = None

    def held(self) -> pa.Table:
        """What the newest version holds; later calls are about this version, up to the next."""
        try:
            self._table = DeltaTable(self.url) if DeltaTable.is_deltatable(self.url) else None
            if self._table is None:
                return HELD.empty_table()
            owner = self._table.metadata().configuration.get(OUTPUT)
            check_owner(f"Delta table {redacted(self.url)}", owner, self.output)
            reader = QueryBuilder().register("exported", self._table).execute(SELECT_HELD)
            return pa.table(reader).select(HELD.names).cast(HELD)
        except (DeltaError, OSError, ValueError, pa.ArrowException) as error:
            raise self._unusable(error) from error

    @property
    def version(self) -> int | None:
        """The version that is known; None if there is no table."""
        return None if self._table is None else self._table.version()

    def schema(self) -> pa.Schema:
        """Its columns; none if there is no table."""
        return pa.schema([] if self._table is None else self._table.schema().to_arrow())

    def commit(self, change: Change, rows: pa.RecordBatchReader) -> None:
        """Write the next version: without the removed slices and with the rows, or nothing at all.

        Raises Overtaken if the table is no longer at the version that was looked at.
        """
        try:
            if self._table is None:
                self._table = self._create(rows.schema)
            self._write(self._table, change, rows)
        except TableNotFoundError as error:
            raise self._unusable(error) from error
        except DeltaError as error:
            # Conflicts have many names, and other faults some of these.
            there = DeltaTable.is_deltatable(self.url)
            if there and DeltaTable(self.url).version() != self.version:
                raise Overtaken(str(error)) from error
            raise FastBertError(
                f"cannot write the Delta table {redacted(self.url)}: {first_line(error)}; if it is "
                "a value that Delta does not hold, leave its column out with --carry of fastbert "
                "label, else run again"
            ) from error

    def _create(self, schema: pa.Schema) -> DeltaTable:
        # A version of its own: where two create a table with rows, Delta would keep both's rows.
        return DeltaTable.create(
            self.url,
            schema,
            configuration={OUTPUT: self.output},
            raise_if_key_not_exists=False,
            commit_properties=CommitProperties(max_commit_retries=0),
        )

    def _write(self, table: DeltaTable, change: Change, rows: pa.RecordBatchReader) -> None:
        how: dict[str, Any] = {"mode": "append"}
        if change.removed:  # else no file need be looked at
            slices = change.removed | {record.slice_id for record in change.added}
            listed = ", ".join(f"'{each}'" for each in sorted(slices))
            how = {"mode": "overwrite", "predicate": f"slice_id in ({listed})"}
        last = table.transaction_version(APPLICATION) or 0
        write_deltalake(
            table,
            rows,
            schema_mode="merge",
            commit_properties=CommitProperties(
                custom_metadata={"run_id": change.run_id},
                app_transactions=[Transaction(APPLICATION, last + 1)],
            ),
            **how,
        )

    def _unusable(self, error: Exception) -> InputError:
        said = " ".join(re.sub(r"\x1b\[\d+m|↳", "", str(error)).split())[:300]
        return InputError(
            f"cannot open the Delta table {redacted(self.url)}: {said}; expected a folder, or a "
            "URL of s3://, gs:// or abfs:// with credentials in the environment"
        )
