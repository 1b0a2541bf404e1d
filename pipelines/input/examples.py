"""Whole tables in memory, for training and evaluation."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fastbert.errors import InputError
from fastbert.filesystem import redacted
from fastbert.training.examples import Examples
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, find_shards
from pipelines.input.texts import decode

Result = TypeVar("Result")


def _opened(shard: Shard, read: Callable[[pq.ParquetFile], Result]) -> Result:
    """What `read` returns for the open shard; InputError if it cannot be read."""
    try:
        with shard.open() as file:
            return read(pq.ParquetFile(file))
    except LookupError as error:
        raise InputError(f"{redacted(shard.url)} {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{redacted(shard.url)} cannot be read as Parquet: {error}") from error


def _split(rows: NDArray[np.int64], sizes: list[int]) -> list[NDArray[np.int64]]:
    """Ascending row numbers, by which of several pieces they lie in, counted from its start."""
    ends = np.cumsum(sizes)
    parts = np.split(rows, np.searchsorted(rows, ends[:-1]))
    return [part - start for part, start in zip(parts, ends - sizes, strict=True)]


def _rows(file: pq.ParquetFile, columns: list[str], rows: NDArray[np.int64] | None) -> pa.Table:
    """Some columns of all rows, or of those with these numbers; only their row groups are read."""
    missing = [name for name in columns if name not in file.schema_arrow.names]
    if missing:
        raise LookupError(
            f"has no column '{missing[0]}'; its columns are {', '.join(file.schema_arrow.names)}; "
            "name another one with --text-column, --pair-column or --label-column"
        )
    if rows is None:
        return file.read(columns)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    return pa.concat_tables(
        file.read_row_group(group, columns).take(pa.array(part))
        for group, part in enumerate(_split(rows, sizes))
        if len(part)
    )


def _usable(column: pa.ChunkedArray) -> list[str | None]:
    """Texts as the labelling job sees them; None where it would not label the row."""
    return [text if error is None else None for text, error in zip(*decode(column), strict=True)]


def _values(
    tables: list[pa.Table],
    name: str,
    read: Callable[[pa.ChunkedArray], list[str | None]],
    expected: str,
) -> list[Any]:
    """The values of a column as `read` gives them."""
    values: list[str | None] = []
    for table in tables:
        try:
            values += read(table[name])
        except pa.ArrowException as error:
            kind = table[name].type
            raise InputError(f"column '{name}' is {kind}, expected {expected}") from error
    return values


def read_examples(
    urls: list[str],
    columns: InputColumns,
    labels: list[str] | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> tuple[Examples, list[str]]:
    """The rows of all shards at `urls`, in order, and the class names.

    Labels of any type are read as strings; `labels` are the class names to use, default those
    found, sorted. With `sample` only so many rows are read, drawn at random with `seed`. Rows
    without usable text are left out. Raises InputError for missing columns, those of other types,
    missing labels, and labels that `labels` does not name.
    """
    wanted = [*columns.texts, *filter(None, [columns.label])]
    shards = find_shards(urls)
    drawn: Sequence[NDArray[np.int64] | None] = [None] * len(shards)
    if sample is not None:
        sizes = [_opened(shard, lambda file: file.metadata.num_rows) for shard in shards]
        chosen = np.random.default_rng(seed).choice(sum(sizes), min(sample, sum(sizes)), False)
        drawn = _split(np.sort(chosen), sizes)
    tables = [
        _opened(shard, partial(_rows, columns=wanted, rows=rows))
        for shard, rows in zip(shards, drawn, strict=True)
        if rows is None or len(rows)
    ]
    sides = [_values(tables, name, _usable, "text; name another one") for name in columns.texts]
    kept = [i for i, row in enumerate(zip(*sides, strict=True)) if None not in row]
    if not kept:
        raise InputError(f"no row of {', '.join(map(redacted, urls))} has a text")
    texts, *pairs = ([side[i] for i in kept] for side in sides)
    names, indices = labels or [], None
    if columns.label:
        with contextlib.suppress(pa.ArrowException):  # 0.5 is 0.50 where one type can hold both
            alone = [table.select([columns.label]) for table in tables]
            tables = [pa.concat_tables(alone, promote_options="permissive")]
        expected = "strings or numbers; name another one with --label-column"
        values = _values(
            tables, columns.label, lambda column: column.cast(pa.string()).to_pylist(), expected
        )
        given = [value for i in kept if (value := values[i]) is not None]
        if missing := len(kept) - len(given):
            raise InputError(
                f"{missing:,} of {len(kept):,} rows have no label in column '{columns.label}'; "
                "fill it, name another one with --label-column, or drop those rows"
            )
        names = labels or sorted(set(given))
        if unknown := sorted(set(given) - set(names)):
            raise InputError(
                f"label '{unknown[0]}' in column '{columns.label}' is not one of the model's: "
                f"{', '.join(names)}"
            )
        index = {name: i for i, name in enumerate(names)}
        indices = [index[value] for value in given]
    return Examples(texts, pairs[0] if pairs else None, indices), names
