"""Sets of slices as tables: SQL says which rows, and only their numbers come back.

A Python object for each slice would take gigabytes and minutes where there are millions.
"""

from functools import cache
from types import TracebackType
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def chosen(table: pa.Table, mask: Mask) -> pa.Table:
    """The rows of a mask; not a copy if it is all of them."""
    return table if mask.all() else table.filter(pa.array(mask))


def numbered(table: pa.Table) -> pa.Table:
    """With its rows' numbers as column `n`."""
    return table.append_column("n", pa.array(np.arange(len(table))))


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """One in memory for the process, as each takes its time; what is named in a cursor is not seen
    in others."""
    connection = duckdb.connect()
    connection.execute("set enable_progress_bar = false")
    return connection


class Sets:
    """Tables, `numbered`, under names, and questions about them."""

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
        """Name a table."""
        self._rows[name] = len(table)
        self._connection.register(name, numbered(table))

    def run(self, sql: str, **values: object) -> None:
        """A statement that has no answer."""
        self._connection.execute(sql, values or None)

    def table(self, sql: str, **values: object) -> pa.Table:
        """The answer to a query, whose parameters are `values`."""
        answer: pa.Table = self._connection.sql(sql, params=values or None).to_arrow_table()
        return answer

    def mask(self, of: str, sql: str, **values: object) -> Mask:
        """Which rows of a table are among those whose `n` the query selects."""
        chosen = np.zeros(self._rows[of], bool)
        chosen[self.table(sql, **values)["n"].to_numpy()] = True
        return chosen


def among(table: pa.Table, keys: pa.Table) -> Mask:
    """Which rows of a table have values that are among the keys, in the columns of these."""
    if not len(table) or not len(keys):
        return np.zeros(len(table), bool)
    with Sets(rows=table.select(keys.column_names), keys=keys) as sets:
        names = ", ".join(keys.column_names)
        return sets.mask("rows", f"select n from rows semi join keys using ({names})")
