"""Sets of slices as tables: SQL selects rows, and returns only their numbers.

With millions of slices, a Python object for each would take gigabytes and minutes.
"""

from functools import cache
from types import TracebackType
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def chosen(table: pa.Table, mask: Mask) -> pa.Table:
    """The rows of a mask, without a copy if it is all of them."""
    return table if mask.all() else table.filter(pa.array(mask))


def numbered(table: pa.Table) -> pa.Table:
    """The table with row numbers as column `n`."""
    return table.append_column("n", pa.array(np.arange(len(table))))


def one_line(error: Exception) -> str:
    """DuckDB's message, without its picture of the query."""
    return " ".join(str(error).partition("\n\nLINE ")[0].split())


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """One database in memory for the process, because each takes time to open. Names in one cursor
    are not visible in others."""
    connection = duckdb.connect()
    connection.execute("set enable_progress_bar = false")
    return connection


class Sets:
    """Named tables, `numbered`, and queries on them."""

    def __init__(self, **tables: pa.Table) -> None:
        self._connection = _database().cursor()
        self._rows: dict[str, int] = {}
        for name, table in tables.items():
            self.add(name, table)

    def __enter__(self) -> "Sets":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._connection.close()

    def add(self, name: str, table: pa.Table) -> None:
        """Register a table under a name."""
        self._rows[name] = len(table)
        self._connection.register(name, numbered(table))

    def run(self, sql: str, **values: object) -> None:
        """Run a statement without a result."""
        self._connection.execute(sql, values or None)

    def table(self, sql: str, **values: object) -> pa.Table:
        """The result of a query with parameters `values`."""
        answer: pa.Table = self._connection.sql(sql, params=values or None).to_arrow_table()
        return answer

    def mask(self, of: str, sql: str, **values: object) -> Mask:
        """Mask of a table's rows whose `n` the query selects."""
        chosen = np.zeros(self._rows[of], bool)
        chosen[self.table(sql, **values)["n"].to_numpy()] = True
        return chosen


def among(table: pa.Table, keys: pa.Table) -> Mask:
    """Mask of a table's rows whose values in the columns of `keys` are among the keys."""
    if not len(table) or not len(keys):
        return np.zeros(len(table), bool)
    with Sets(rows=table.select(keys.column_names), keys=keys) as sets:
        names = ", ".join(keys.column_names)
        return sets.mask("rows", f"select n from rows semi join keys using ({names})")
