"""Questions about a labelled output, as SQL over its Parquet with DuckDB.

    labels = fastbert.open("s3://corpus/labels")
    labels.query("select label, avg(exit_layer) from rows group by label")

Of the views, `rows` is the labelled table itself, and scans it; the others come from statistics, a
few hundred bytes per slice. Each is made when a query first names it, so a table of a billion rows
costs nothing until it is asked for.
"""

import json
import logging
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import InputError
from fastbert.exits.question import Kind, prefix
from fastbert.filesystem import open_url, redacted
from pipelines.labelling.summary import RUNS
from pipelines.output.history import STATISTICS, statistics
from pipelines.output.ledger import Ledger
from pipelines.output.sets import numbered, one_line
from pipelines.output.storage import Storage
from pipelines.reports import views
from pipelines.reports.folders import FILE, folder_columns, quoted
from pipelines.reports.hugging_face import data_set

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

log = logging.getLogger(__name__)

#: What `record.table_path` gives.
_OURS = r"(?s)^table/.+\.[0-9]{12,}\.parquet$"
#: What a file that is no summary may raise.
_NO_SUMMARY = (ValueError, AttributeError, TypeError, OverflowError, RecursionError,
               pa.ArrowException)  # fmt: skip


class Analytics:
    """Questions about one output: the views rows, slices, exits and runs, and its rows."""

    def __init__(self, output: str) -> None:
        """Raises InputError if nothing is there."""
        self.storage = Storage(output)
        self._connection = duckdb.connect()
        self._connection.execute("set enable_progress_bar = false")
        self._connection.execute("set python_enable_replacements = false")
        self._reach(fs := self.storage.fs)
        self.root = fs.unstrip_protocol(self.storage.root).removeprefix("file://")
        self._listing = found, odd = self.storage.listing("table", ".parquet")
        ours = pc.match_substring_regex(found, _OURS)
        self.foreign = sorted(found.filter(pc.invert(ours)).to_pylist() + odd)
        if self.foreign:
            log.warning(
                "%d Parquet files below table/ are not of this job, and are passed over, as %s",
                *(len(self.foreign), redacted(self.foreign[0])),
            )
        #: Of labelled rows.
        self.paths = found.filter(ours)
        if not len(self.paths):
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
        result = self.arrow(sql)
        self._connection.register("result", result)
        try:
            self._connection.execute(f"copy result to {quoted(path)} (format {kind})")
        except (duckdb.Error, OSError) as error:
            raise InputError(f"cannot write '{redacted(target)}': {one_line(error)}") from error
        finally:
            self._connection.unregister("result")
        return int(result.num_rows)

    def dataset(self, streaming: bool = False) -> "Dataset | IterableDataset":
        """The labelled rows as a data set of Hugging Face's `datasets`, in the order of files and
        rows; folders such as `dt=1` are no columns of it.

        It is memory-mapped, from a copy that `datasets` keeps in its cache until a file changes;
        with `streaming` there is no copy, and rows are read as they are asked for. Raises
        InputError where `datasets` is missing, and for columns that it has no type for, or that
        have in different files types that do not go together.
        """
        paths = sorted(self.paths.to_pylist())
        patterns = [f"{self.root}/{_alone(path)}" for path in paths]
        return data_set(self.storage, paths, patterns, streaming)

    @cached_property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """DuckDB's, with all views, which takes a look at every file of the table; data frames of
        the caller's can be named in its queries, too. What it raises are DuckDB's own errors."""
        try:
            for view in self._makers:
                self._make(view)
            self._execute("set python_enable_replacements = true")
        except (duckdb.Error, OSError) as error:
            raise self._failed("the views cannot be made", error) from error
        return self._connection

    def _reach(self, fs: AbstractFileSystem) -> None:
        """Let DuckDB read and write there."""
        names = [fs.protocol] if isinstance(fs.protocol, str) else list(fs.protocol)
        known = self._connection.list_filesystems()
        if not isinstance(fs, LocalFileSystem) and not set(names) & set(known):
            self._connection.register_filesystem(fs)

    def _run(self, sql: str, form: str) -> Any:
        """The result of the last statement, after the views that they name have been made; `form`
        is the method of DuckDB's relations that gives it."""
        try:
            statements = [statement.query for statement in duckdb.extract_statements(sql)]
            return [self._answer(statement, form) for statement in statements or [sql]][-1]
        except (duckdb.Error, OSError) as error:
            raise self._failed("the query failed", error) from error

    def _failed(self, what: str, error: Exception) -> InputError:
        what = f"{what}: {one_line(error)}"
        if f"{self.root}/table/" in what:
            what += "; if the file is damaged, remove it: fastbert label writes it again"
        return InputError(what)

    def _answer(self, statement: str, form: str) -> Any:
        try:
            named, others = self._connection.get_table_names(statement), list[str]()
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
        found = self._connection.sql(statement)
        return None if found is None else getattr(found, form)()

    @property
    def _makers(self) -> dict[str, Callable[[], object]]:
        """By view, in the order of what making it costs."""
        return {
            "summaries": self._make_summaries,
            "exits": self._make_exits,
            "slices": lambda: self._make_from_exits(views.SLICES),
            "runs": lambda: self._make_from_exits(views.RUNS),
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

    def _parquet(self, patterns: list[str], more: str = "") -> str:
        files = ", ".join(quoted(f"{self.root}/{pattern}") for pattern in patterns)
        return f"read_parquet([{files}], union_by_name=true, hive_partitioning=false{more})"

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """Of the questions that the rows answer, by name, as the last commit has them."""
        recipe = Ledger(self.storage).committed(self._listing).recipe() or {}
        found: dict[str, Kind] = recipe.get("kinds") or {"": "single-label"}
        return found

    def least_certain(self, rows: int) -> pd.DataFrame:
        """Rows with the highest uncertainty where they left, and where they are: `path` of the file
        below the output, and `row` in it."""
        options = ", filename='/file', file_row_number=true"
        kinds = self.kinds
        unsure = ", ".join(f'"{prefix(question)}uncertainty"' for question in kinds)
        return self.query(f"""
            select {", ".join(views.answer(*each) for each in kinds.items())}, exit_layer as layer,
                   round(greatest({unsure}), 4) as uncertainty,
                   substr("/file", {len(self.root) + 2}) as path, file_row_number as row
            from {self._parquet(self._patterns(), options)} as all_rows
            where exit_layer is not null
            order by greatest({unsure}) desc, path, row limit {rows}
        """)

    def _patterns(self) -> list[str]:
        """What names the labelled rows' files."""
        # Spark calls folders so, and object stores find them as if they were files.
        if self.foreign or pc.any(pc.match_substring(self.paths, ".parquet/")).as_py():
            return list(map(_alone, sorted(self.paths.to_pylist())))
        return ["table/**/*.parquet"]

    def _make_rows(self) -> None:
        patterns, paths = self._patterns(), self.paths.to_pylist()
        folders = folder_columns(self._connection, paths)
        if not folders:
            self._execute(f"create view rows as from {self._parquet(patterns)}")
            return
        # DuckDB's own columns of folders hide those of the files, and fail where a file lies in
        # fewer folders than another. By the name of the file it skips files just as well.
        source = self._parquet(patterns, ", filename='/file'")
        described = self._execute(f"describe from {source}")
        columns = {name.casefold() for name, *_ in described}
        if hidden := sorted(columns & folders.keys()):
            log.info(
                "the view rows has the columns %s of the files, which hide the folders %s",
                *(", ".join(hidden), ", ".join(f"{name}=" for name in hidden)),
            )
        more = [column for name, column in folders.items() if name not in columns]
        chosen = ", ".join([f"* exclude ({FILE})", *more])
        self._execute(f"create view rows as select {chosen} from {source}")

    def _make_exits(self) -> None:
        self._make("summaries")
        ledger = Ledger(self.storage)
        output = ledger.committed(self._listing)
        commits = output.commits
        self._connection.register("commits", numbered(commits))
        self._execute(views.CURRENT)
        self._execute(views.RECIPES)
        self._connection.unregister("commits")
        # A run that is still at work, or was killed, has commits but no statistics.
        self._connection.register("unreported", STATISTICS.empty_table())
        try:
            self._make_history(["stats/*.parquet"] if self._statistics() else [])
        except duckdb.Error:
            readable = filter(self._readable, self._statistics())
            self._make_history(list(map(_alone, readable)))
        if output.stray:
            self._connection.register("stray", pa.table({"path": [*output.stray]}))
            self._execute(views.STRAY)
        self._execute(views.MARKS)
        missing = self._execute(views.MISSING, "to_arrow_table")["n"].drop_null()
        if len(missing):
            records = ledger.whole(commits.take(missing.combine_chunks()))
            self._connection.register("unreported", statistics(records))
        self._execute(views.EXITS)

    def _statistics(self) -> list[str]:
        return sorted(self.storage.paths("stats", ".parquet"))

    def _make_history(self, patterns: list[str]) -> None:
        sources = ["from unreported", *([f"from {self._parquet(patterns)}"] if patterns else [])]
        self._execute(views.HISTORY.replace("{sources}", " union all by name ".join(sources)))

    def _readable(self, path: str) -> bool:
        """Whether a file of statistics can be read. Of others, the ledger has the records."""
        try:
            self._execute(f"from {self._parquet([_alone(path)])}")
        except (duckdb.Error, OSError) as error:
            log.warning(
                "ignoring the unreadable statistics %s: %s; remove the file, and the next run of "
                "fastbert label that has something to do writes it again",
                *(redacted(path), one_line(error)),
            )
            return False
        return True

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
            except _NO_SUMMARY as error:
                log.warning("ignoring the unreadable summary %s: %s", redacted(path), error)
        self._connection.register("summaries", pa.concat_tables(summaries).combine_chunks())


def _alone(path: str) -> str:
    """A pattern that matches this path only."""
    return re.sub(r"[*?[]", r"[\g<0>]", path)


def open(url: str) -> Analytics:
    """The analytics of a labelled output, the --output of fastbert label, at any fsspec URL.

    Raises InputError if nothing is there.
    """
    return Analytics(url)
