"""Whole tables in memory, for training and evaluation."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastbert.errors import InputError
from fastbert.filesystem import shown
from fastbert.training.examples import Examples
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, find_shards
from pipelines.input.texts import decode

Array = np.ndarray[Any, Any]
Result = TypeVar("Result")


def _opened(shard: Shard, read: Callable[[pq.ParquetFile], Result]) -> Result:
    """What `read` returns for the open shard; InputError if it cannot be read."""
    try:
        with shard.open() as file:
            return read(pq.ParquetFile(file))
    except LookupError as error:
        raise InputError(f"{shown(shard.url)} {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{shown(shard.url)} cannot be read as Parquet: {error}") from error


def _draw(counts: list[int], sample: int, seed: int) -> list[Array]:
    """Row numbers, ascending, of a random sample of all rows, by shard."""
    ends = np.cumsum(counts)
    total = int(ends[-1])
    chosen = np.random.default_rng(seed).choice(total, min(sample, total), replace=False)
    chosen.sort()
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    return [part - start for part, start in zip(parts, [0, *ends[:-1]], strict=True)]


def _rows(file: pq.ParquetFile, columns: list[str], rows: Array | None) -> pa.Table:
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
    ends = np.cumsum(sizes)
    parts = []
    for group in np.unique(np.searchsorted(ends, rows, side="right")).tolist():
        first = int(ends[group]) - sizes[group]
        mine = rows[(rows >= first) & (rows < ends[group])] - first
        parts.append(file.read_row_group(group, columns).take(pa.array(mine)))
    return pa.concat_tables(parts)


def _texts(tables: list[pa.Table], name: str) -> tuple[list[str], list[str | None]]:
    """The texts of a column, and why a row has none, as the labelling job sees them."""
    texts: list[str] = []
    errors: list[str | None] = []
    for table in tables:
        try:
            more, reasons = decode(table[name])
        except pa.ArrowException as error:
            raise InputError(
                f"column '{name}' is {table[name].type}, expected text; name another one"
            ) from error
        texts += more
        errors += reasons
    return texts, errors


def _labels(tables: list[pa.Table], name: str) -> list[str | None]:
    """The values of a column as strings, whatever their types."""
    with contextlib.suppress(pa.ArrowException):  # 0.5 is 0.50 where one type can hold both
        columns = [table.select([name]) for table in tables]
        tables = [pa.concat_tables(columns, promote_options="permissive")]
    values: list[str | None] = []
    for table in tables:
        try:
            values += table[name].cast(pa.string()).to_pylist()
        except pa.ArrowException as error:
            raise InputError(
                f"column '{name}' is {table[name].type}, expected strings or numbers; name "
                "another one with --label-column"
            ) from error
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
    wanted = columns.texts + ([] if columns.label is None else [columns.label])
    shards = find_shards(urls)
    drawn: Sequence[Array | None] = [None] * len(shards)
    if sample is not None:
        drawn = _draw([_opened(s, lambda f: f.metadata.num_rows) for s in shards], sample, seed)
    tables = [
        _opened(shard, partial(_rows, columns=wanted, rows=rows))
        for shard, rows in zip(shards, drawn, strict=True)
        if rows is None or len(rows)
    ]
    asked = ", ".join(shown(url) for url in urls)
    texts, errors = _texts(tables, columns.text)
    pairs = None
    if columns.pair is not None:
        pairs, more = _texts(tables, columns.pair)
        errors = [first or second for first, second in zip(errors, more, strict=True)]
    kept = [i for i, error in enumerate(errors) if error is None]
    if not kept:
        raise InputError(f"no row of {asked} has a text")
    names = labels or []
    indices = None
    if columns.label:
        values = _labels(tables, columns.label)
        given = [value for i in kept if (value := values[i]) is not None]
        if missing := len(kept) - len(given):
            raise InputError(
                f"{missing:,} of {len(kept):,} rows have no label in column '{columns.label}'; "
                "fill it, name another one with --label-column, or drop those rows"
            )
        names = labels or sorted(set(given))
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise InputError(
                f"label '{unknown[0]}' in column '{columns.label}' is not one of the model's: "
                f"{', '.join(names)}"
            )
        index = {name: i for i, name in enumerate(names)}
        indices = [index[value] for value in given]
    examples = Examples(
        [texts[i] for i in kept], None if pairs is None else [pairs[i] for i in kept], indices
    )
    return examples, names
