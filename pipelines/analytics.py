"""Questions about a labelled output, as SQL over its Parquet and JSON with DuckDB."""

import json
from dataclasses import fields
from typing import Any

import duckdb
import pandas as pd
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import InputError
from pipelines.ledger import STATISTICS, Record
from pipelines.storage import Storage

EXITS = """
    select exit_layer as layer, count(*) as rows,
           round(100.0 * count(*) / sum(count(*)) over (), 1) as percent,
           round(avg(score), 4) as mean_score, round(avg(uncertainty), 4) as mean_uncertainty,
           round(avg(tokens), 1) as mean_tokens
    from labels where error is null group by exit_layer order by exit_layer
"""
LABELS = """
    select label, count(*) as rows,
           round(100.0 * count(*) / sum(count(*)) over (), 1) as percent,
           round(avg(exit_layer), 2) as mean_layer, round(avg(score), 4) as mean_score
    from labels where error is null group by label order by rows desc, label
"""
ERRORS = """
    select error, count(*) as rows from labels where error is not null
    group by error order by rows desc, error limit 20
"""
RUNS = """
    select run_id, sum(slice_rows)::bigint as rows, sum(flops)::bigint as flops,
           round(sum(slice_full_flops) / sum(flops), 2) as flops_speedup,
           sum(slice_audit_rows)::bigint as audited,
           round(100.0 * sum(slice_audit_agreements) / nullif(sum(slice_audit_rows), 0), 2)
               as audit_agreement_percent,
           round(sum(slice_device_seconds), 1) as device_seconds
    from (select run_id, slice_id, sum(flops) as flops, any_value(columns(
              ['slice_rows', 'slice_full_flops', 'slice_audit_rows', 'slice_audit_agreements',
               'slice_device_seconds']))
          from exits group by run_id, slice_id)
    group by run_id order by run_id
"""


class Analytics:
    """A DuckDB connection with the views labels, exits, slices and runs of one output."""

    def __init__(self, output: str) -> None:
        storage = Storage(output)
        self.connection = duckdb.connect()
        self.connection.execute("set enable_progress_bar = false")
        if not isinstance(storage.fs, LocalFileSystem):
            self.connection.register_filesystem(storage.fs)
        root = storage.fs.unstrip_protocol(storage.root).removeprefix("file://")
        if not storage.paths("table", ".parquet"):
            raise InputError(f"no labels at '{output}'; expected the --output of jobs/label.py")
        root = root.replace("'", "''")
        self._view("labels", f"read_parquet('{root}/table/**/*.parquet', union_by_name=true)")
        if storage.paths("stats", ".parquet"):
            self._view("exits", f"read_parquet('{root}/stats/*.parquet', union_by_name=true)")
        else:  # the first run is still at work, or was killed
            self.connection.register("exits", STATISTICS.empty_table())
        self._frame("slices", storage, "ledger/slices", [f.name for f in fields(Record)])
        self._frame("runs", storage, "ledger/runs", ["run_id"])

    def query(self, sql: str) -> pd.DataFrame:
        """The result of one query; InputError if it is not valid SQL on the views."""
        try:
            frame: pd.DataFrame = self.connection.sql(sql).df()
        except duckdb.Error as error:
            raise InputError(f"the query failed: {error}") from error
        return frame

    def _view(self, name: str, source: str) -> None:
        self.connection.execute(f"create view {name} as select * from {source}")

    def _frame(self, name: str, storage: Storage, folder: str, columns: list[str]) -> None:
        texts = storage.read(sorted(storage.paths(folder, ".json"))).values()
        rows: list[dict[str, Any]] = [json.loads(text) for text in texts]
        self.connection.register(name, pd.DataFrame(rows, columns=None if rows else columns))
