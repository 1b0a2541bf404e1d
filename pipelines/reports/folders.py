"""Hive folders, such as `dt=2026-11-22/`, as columns: SQL over the path of a row's file."""

import re
from collections.abc import Iterable

import duckdb

#: The column that has the path.
FILE = '"/file"'

_FOLDER = re.compile(r"(?:^|/)([^/=]+)=([^/]*)(?=/)")
#: How Hive calls a folder of rows without a value.
_NO_VALUE = "'__HIVE_DEFAULT_PARTITION__'"
#: The type that all values of such a folder have, as DuckDB would take them.
_TYPE = rf"""
    select case when bool_and(try_cast(value as date) is not null) then 'date'
                when bool_and(try_cast(value as timestamp) is not null) then 'timestamp'
                when bool_and(regexp_full_match(value, '[+-]?\d{{1,18}}')) then 'bigint'
                else 'varchar' end
    from (select nullif(nullif(coalesce(try(url_decode(raw)), raw), ''), {_NO_VALUE}) as value
          from (select unnest(?::varchar[]) as raw))
    where value is not null
"""


def folder_columns(connection: duckdb.DuckDBPyConnection, paths: Iterable[str]) -> dict[str, str]:
    """For each name of folders in these paths, in lower case, the column that has what they say of
    a row, null outside of them: `EXPRESSION as NAME`, over FILE."""
    values: dict[str, set[str]] = {}
    for path in paths:
        for name, value in _FOLDER.findall(path):
            values.setdefault(name.casefold(), set()).add(value)
    return {name: _column(connection, name, some) for name, some in values.items()}


def _column(connection: duckdb.DuckDBPyConnection, name: str, values: set[str]) -> str:
    ((kind,),) = connection.sql(_TYPE, params=[sorted(values)]).fetchall()
    pattern = quoted(f"(?is).*/{re.escape(name)}=([^/]*)/")
    value = f"regexp_extract({FILE}, {pattern}, 1)"
    value = f"coalesce(try(url_decode({value})), {value})"  # others than UTF-8 stay as they are
    column = '"' + name.replace('"', '""') + '"'
    return f"nullif(nullif({value}, ''), {_NO_VALUE})::{kind} as {column}"


def quoted(text: str) -> str:
    """A string in SQL."""
    return "'" + text.replace("'", "''") + "'"
