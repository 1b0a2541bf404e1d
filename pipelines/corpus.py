"""Whole tables in memory, for training and evaluation."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from fastbert.errors import InputError
from fastbert.training import Examples
from pipelines.shards import find_shards


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read."""

    text: str = "text"
    pair: str | None = None
    label: str | None = None


def read_examples(
    urls: list[str], columns: Columns, labels: list[str] | None = None
) -> tuple[Examples, list[str]]:
    """The rows of all shards at `urls`, in order, and the class names.

    Labels of any type are read as strings; `labels` are the class names to use, default those
    found, sorted. Rows without text are left out. Raises InputError for missing columns, missing
    labels, and labels that `labels` does not name.
    """
    wanted = [name for name in (columns.text, columns.pair, columns.label) if name is not None]
    tables = []
    for shard in find_shards(urls):
        with shard.open() as file:
            try:
                schema = pq.read_schema(file)
                missing = [name for name in wanted if name not in schema.names]
                if missing:
                    raise InputError(
                        f"{shard.url} has no column '{missing[0]}'; "
                        f"its columns are {', '.join(schema.names)}"
                    )
                table = pq.read_table(file, columns=wanted, partitioning=None)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{shard.url} cannot be read as Parquet: {error}") from error
        tables.append(table)
    table = pa.concat_tables(tables, promote_options="permissive")
    texts = table[columns.text].cast(pa.string()).to_pylist()
    pairs = table[columns.pair].cast(pa.string()).to_pylist() if columns.pair else None
    kept = [i for i, text in enumerate(texts) if text and (pairs is None or pairs[i])]
    if not kept:
        raise InputError(f"no row of {', '.join(urls)} has a text")
    names = labels or []
    indices = None
    if columns.label:
        values = table[columns.label].cast(pa.string()).to_pylist()
        found = {values[i] for i in kept}
        if None in found:
            raise InputError(f"column '{columns.label}' has empty labels; fill or drop those rows")
        names = labels or sorted(found)
        unknown = sorted(found - set(names))
        if unknown:
            raise InputError(
                f"label '{unknown[0]}' in column '{columns.label}' is not one of the model's: "
                f"{', '.join(names)}"
            )
        index = {name: i for i, name in enumerate(names)}
        indices = [index[values[i]] for i in kept]
    examples = Examples(
        [texts[i] for i in kept], None if pairs is None else [pairs[i] for i in kept], indices
    )
    return examples, names
