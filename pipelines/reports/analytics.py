"""Questions about a labelled output, as SQL over its Parquet with DuckDB.

    analytics = pipelines.reports.analytics.open("s3://corpus/labels")
    analytics.query("select label, avg(exit_layer) from rows group by label")

Of the views, `rows` is the labelled table itself, and scans it; the others come from statistics, a
few hundred bytes per slice. Each is made when a query first names it, so a table of a billion rows
costs nothing until it is asked for.
"""

import json
import logging
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import InputError
from fastbert.filesystem import open_url, redacted
from pipelines.labelling.summary import RUNS
from pipelines.output.ledger import STATISTICS, Ledger, statistics
from pipelines.output.schema import OUTPUT
from pipelines.output.statistics import PER_SLICE
from pipelines.output.storage import Storage

log = logging.getLogger(__name__)

#: Names of hive folders, `name=value`, in a path.
_HIVE = re.compile(r"(?:^|/)([^/=]+)=[^/]*(?=/)")

#: Statistics of all commits there have ever been, with where their rows are.
_HISTORY = """
    create or replace view history as
    select * replace (committed_at::timestamp as committed_at),
           format('table/{}.{:012d}.parquet', shard, first_row) as path
    from ({sources})
"""

#: The commits whose rows the table holds now: of each slice that is there, the last run's. Runs
#: come one after the other; in the order of their drivers' clocks, as those of nodes may differ.
_CURRENT = """
    create or replace table newest as
    with begun as (
        select run_id, coalesce(any_value(summaries.started_at)::timestamp, min(committed_at))
                   as begun_at
        from history left join summaries using (run_id) group by run_id
    )
    select slice_id, max_by(run_id, row(begun_at, committed_at)) as run_id
    from history semi join listing using (path) join begun using (run_id) group by slice_id
"""

_EXITS = """
    create or replace view exits as
    select history.*, newest.run_id is not null as current
    from history left join newest using (slice_id, run_id)
"""

#: What a run's slices add up to, and as what.
_TYPES = {pa.decimal128(38): "decimal(38, 0)", pa.float64(): "double", pa.int64(): "bigint"}
_SUMMED = {m: _TYPES[RUNS.field(m.total).type] for m in PER_SLICE if m.total}

_SLICES = f"""
    create or replace view slices as
    select slice_id, any_value(run_id) as run_id, any_value(shard) as shard,
           any_value(first_row) as first_row, any_value(slice_rows) as rows,
           coalesce(sum(rows) filter (exit_layer is null), 0)::bigint as error_rows,
           sum(tokens)::bigint as tokens,
           list(rows order by exit_layer) filter (exit_layer is not null) as exits,
           sum(exit_layer * rows) / nullif(sum(rows) filter (exit_layer is not null), 0)
               as mean_exit_layer,
           sum(flops)::bigint as flops,
           {", ".join(f"any_value({m.column}) as {m.name}" for m in PER_SLICE)},
           any_value(committed_at) as committed_at, any_value(path) as path
    from exits where current group by slice_id
"""

#: Runs that are still at work, or were killed, have statistics at most.
_RUNS = f"""
    create or replace view runs as
    select * replace (started_at::timestamp as started_at), true as finished from summaries
    union all by name
    select run_id, min(committed_at) as started_at, false as finished,
           count(*) as slices_labelled, sum(rows)::bigint as rows,
           sum(error_rows)::bigint as error_rows, sum(tokens)::bigint as tokens,
           sum(flops)::decimal(38, 0) as flops,
           {", ".join(f"sum({m.name})::{kind} as {m.total}" for m, kind in _SUMMED.items())}
    from (
        select run_id, slice_id, min(committed_at) as committed_at, sum(rows) as rows,
               coalesce(sum(rows) filter (exit_layer is null), 0) as error_rows,
               sum(tokens) as tokens, sum(flops) as flops,
               {", ".join(f"any_value({m.column}) as {m.name}" for m in _SUMMED)}
        from exits anti join summaries using (run_id) group by run_id, slice_id
    ) group by run_id
"""


class Analytics:
    """A DuckDB connection with the views rows, slices, exits and runs of one output."""

    def __init__(self, output: str) -> None:
        """Raises InputError if nothing is there."""
        self.storage = Storage(output)
        self.connection = duckdb.connect()
        self.connection.execute("set enable_progress_bar = false")
        self.connection.execute("set python_enable_replacements = false")
        self._reach(fs := self.storage.fs)
        self.root = fs.unstrip_protocol(self.storage.root).removeprefix("file://")
        self.paths = sorted(self.storage.paths("table", ".parquet"))
        if not self.paths:
            raise InputError(
                f"no labels at '{redacted(output)}'; expected the --output of fastbert label"
            )
        self._made: set[str] = set()

    def query(self, sql: str) -> pd.DataFrame:
        """The result of one query; InputError if it is not valid SQL on the views.

        Statements without a result, such as `create view`, give an empty frame.
        """
        frame: pd.DataFrame | None = self._run(sql, "df")
        return pd.DataFrame() if frame is None else frame

    def arrow(self, sql: str) -> pa.Table:
        """The same as an Arrow table."""
        table: pa.Table | None = self._run(sql, "to_arrow_table")
        return pa.table({}) if table is None else table

    def save(self, sql: str, target: str) -> int:
        """Write the result to a file or URL ending in .csv, .json (a line per row) or .parquet.

        Returns how many rows it has. Raises InputError as `query` does, and for other endings.
        """
        kinds = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
        kind = kinds.get(PurePosixPath(target).suffix)
        if kind is None:
            raise InputError(f"'{redacted(target)}' should end in one of {', '.join(kinds)}")
        fs, path = open_url(target)
        self._reach(fs)
        if not isinstance(fs, LocalFileSystem):
            path = fs.unstrip_protocol(path)
        quoted = path.replace("'", "''")
        result = self.arrow(sql)
        self.connection.register("result", result)
        try:
            self.connection.execute(f"copy result to '{quoted}' (format {kind})")
        except (duckdb.Error, OSError) as error:
            raise InputError(f"cannot write '{redacted(target)}': {error}") from error
        finally:
            self.connection.unregister("result")
        return int(result.num_rows)

    def _reach(self, fs: AbstractFileSystem) -> None:
        """Let DuckDB read and write there."""
        names = [fs.protocol] if isinstance(fs.protocol, str) else list(fs.protocol)
        known = self.connection.list_filesystems()
        if not isinstance(fs, LocalFileSystem) and not set(names) & set(known):
            self.connection.register_filesystem(fs)

    def _run(self, sql: str, form: str) -> Any:
        """The result of the last statement, after the views that they name have been made; `form`
        is the method of DuckDB's relations that gives it."""
        try:
            statements = [statement.query for statement in duckdb.extract_statements(sql)]
            return [self._answer(statement, form) for statement in statements or [sql]][-1]
        except duckdb.Error as error:
            raise InputError(f"the query failed: {error}") from error

    def _answer(self, statement: str, form: str) -> Any:
        try:
            named, others = self.connection.get_table_names(statement), list[str]()
        except (duckdb.Error, OSError):
            # It looks for columns, too, as in `join ... using`: then all in turn, the cheap first.
            named, others = set(), list(self._makers)
        for name in named:
            self._make(name.casefold())
        while True:
            try:
                return self._execute(statement, form)
            except duckdb.CatalogException:
                if not others:
                    raise
                self._make(others.pop(0))

    def _execute(self, statement: str, form: str = "fetchall") -> Any:
        try:
            found = self.connection.sql(statement)
            return None if found is None else getattr(found, form)()
        except OSError as error:
            raise InputError(f"the query failed: {error}") from error

    @property
    def _makers(self) -> dict[str, Callable[[], object]]:
        """By view, in the order of what making it costs."""
        return {
            "summaries": self._make_summaries,
            "exits": self._make_exits,
            "slices": lambda: self._make_from_exits(_SLICES),
            "runs": lambda: self._make_from_exits(_RUNS),
            "rows": self._make_rows,
        }

    def _make(self, view: str) -> None:
        """Make a view, if it is one of ours and not there yet."""
        if view not in self._makers or view in self._made:
            return
        self._made.add(view)
        try:
            self._makers[view]()
        except BaseException:
            self._made.remove(view)
            raise

    def _parquet(self, patterns: list[str], hive: bool) -> str:
        quoted = (f"{self.root}/{pattern}".replace("'", "''") for pattern in patterns)
        files = ", ".join(f"'{pattern}'" for pattern in quoted)
        return f"read_parquet([{files}], union_by_name=true, hive_partitioning={hive})"

    def _make_rows(self) -> None:
        # DuckDB prefers the value of a folder `label=x` to that of a column `label`.
        keys = {key.casefold() for path in [self.root, *self.paths] for key in _HIVE.findall(path)}
        hive = bool(keys) and not keys & {*OUTPUT.names}
        patterns = ["table/**/*.parquet"]
        if any(".parquet/" in path for path in self.paths):
            # Spark calls folders so, and object stores find them as if they were files.
            patterns = [re.sub(r"[*?[]", r"[\g<0>]", path) for path in self.paths]
        self._execute(f"create view rows as from {self._parquet(patterns, hive)}")

    def _make_exits(self) -> None:
        self._make("summaries")
        self.connection.register("listing", pa.table({"path": self.paths}))
        # A run that is still at work, or was killed, has commits but no statistics.
        self.connection.register("unreported", STATISTICS.empty_table())
        sources = ["from unreported"]
        if self.storage.paths("stats", ".parquet"):
            sources.append(f"from {self._parquet(['stats/*.parquet'], hive=False)}")
        self._execute(_HISTORY.replace("{sources}", " union all by name ".join(sources)))
        missing = self._execute("from listing anti join history using (path)")
        if missing:
            records = Ledger(self.storage).records([path for (path,) in missing])
            self.connection.register("unreported", statistics(records))
        self._execute(_CURRENT)
        self._execute(_EXITS)

    def _make_from_exits(self, view: str) -> None:
        self._make("exits")
        self._execute(view)

    def _make_summaries(self) -> None:
        texts = self.storage.read(sorted(self.storage.paths("ledger/runs", ".json")))
        summaries = [RUNS.empty_table()]
        for path, text in texts.items():
            try:
                values = json.loads(text)
                row = {name: values.get(name) for name in RUNS.names}
                row["run_id"] = PurePosixPath(path).stem
                summaries.append(pa.Table.from_pylist([row], schema=RUNS))
            except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
                log.warning("ignoring the unreadable summary %s: %s", path, error)
        self.connection.register("summaries", pa.concat_tables(summaries).combine_chunks())


def open(url: str) -> Analytics:
    """The analytics of a labelled output, the --output of fastbert label, at any fsspec URL.

    Raises InputError if nothing is there.
    """
    return Analytics(url)
