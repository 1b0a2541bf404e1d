"""Whole tables in memory, for training and evaluation."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastbert.configuration import check_distinct
from fastbert.errors import FastBertError, InputError
from fastbert.exits.question import Kind
from fastbert.filesystem import is_transient, redacted
from fastbert.training.examples import Examples
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import BATCH_ROWS, Slice, SliceReader, count_rows
from pipelines.input.targets import Targets
from pipelines.input.texts import usable_texts
from pipelines.input.unreadable import ShardError, read_patiently
from pipelines.output.retry import Patience
from pipelines.output.storage import FOOTER_THREADS

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Rows = NDArray[np.int64]


def read_examples(
    urls: list[str],
    columns: InputColumns,
    labels: list[str] | None = None,
    sample: int | None = None,
    seed: int = 0,
    kind: Kind | None = "single-label",
) -> tuple[Examples, list[str]]:
    """The rows of all shards at `urls`, in order, and the class names.

    Labels are read as targets of a `kind` of question, with None of what the column's type says
    (`Targets`); `labels` are the class names to use, default those found, sorted. With `sample`
    only so many rows are read, drawn at random with `seed`. Rows without usable text are left out.
    Raises InputError for shards that the labelling job would not label, labels that are missing or
    not among `labels`, and two of these that are the same; FastBertError where a store does not
    answer.
    """
    if columns.label in columns.texts:
        raise InputError(
            f"column '{columns.label}' is named both as text and as class; name another one with "
            "--label-column or --text-column"
        )
    if columns.label and labels:
        check_distinct(labels)
    columns = replace(columns, carry=tuple(filter(None, [columns.label])))
    shards = find_shards(urls)
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        sizes = [*pool.map(lambda shard: _sound(shard, count_rows, shard, columns), shards)]
    drawn: list[Rows | None] = [None] * len(shards)
    total = sum(sizes)
    read = total if sample is None else min(sample, total)
    if sample is not None:
        some = np.random.default_rng(seed).choice(total, read, replace=False)
        some, ends = np.sort(some), np.cumsum(sizes)
        parts = np.split(some, np.searchsorted(some, ends[:-1]))
        drawn = [part - (end - size) for part, end, size in zip(parts, ends, sizes, strict=True)]
    texts: list[list[str]] = [[] for _ in columns.texts]
    targets = Targets(columns.label, kind) if columns.label else None
    for shard, rows, chosen in zip(shards, sizes, drawn, strict=True):
        sides, given = _sound(shard, _read, shard, rows, chosen, columns)
        for column, side in zip(texts, sides, strict=True):
            column += side
        try:
            for some in given:
                assert targets is not None
                targets.add(some)
        except InputError as error:
            raise InputError(
                f"{redacted(shard.url)}: column '{columns.label}' {error}; name another one with "
                "--label-column"
            ) from error
    if not texts[0]:
        raise InputError(f"no row of {', '.join(map(redacted, urls))} has a text")
    if bad := read - len(texts[0]):
        log.warning("%d of %d rows have no text that can be used: left out", bad, read)
    pairs = texts[1] if columns.pair else None
    if targets is None:
        return Examples(texts[0], pairs), labels or []
    names, found = targets.finish(labels)
    assert targets.kind is not None  # it has seen rows
    return Examples(texts[0], pairs, found, targets.kind), names


def _sound(shard: Shard, read: Callable[..., Result], *arguments: Any) -> Result:
    """What `read` returns. One bad shard is enough to refuse the whole input: a model is not to
    learn from, or be judged by, half of it."""
    try:
        if shard.problem is not None:
            raise ShardError(shard.problem)
        return read_patiently(Patience(), read, *arguments)
    except ShardError as error:
        passes = error.__cause__ is not None and is_transient(error.__cause__)
        kind = FastBertError if passes else InputError
        raise kind(f"{redacted(shard.url)}: {error}") from error


def _read(
    shard: Shard, rows: int, chosen: Rows | None, columns: InputColumns
) -> tuple[list[list[str]], list[pa.ChunkedArray]]:
    """Texts by column, and what the label's column has, of the rows with usable text: all, or the
    `chosen` of them."""
    texts: list[list[str]] = [[] for _ in columns.texts]
    given = []
    for table in _tables(shard, rows, chosen, columns):
        sides, usable = usable_texts(table, columns.texts)
        for column, side in zip(texts, sides, strict=True):
            column += side
        if columns.label:
            given.append(table[columns.label].filter(pa.array(usable, pa.bool_())))
    return texts, given


def _tables(
    shard: Shard, rows: int, chosen: Rows | None, columns: InputColumns
) -> Iterator[pa.Table]:
    """The rows, some at a time; row groups without one of the `chosen` are passed over."""
    with closing(SliceReader(columns)) as reader:
        if chosen is None:
            yield from reader.read(Slice(shard, rows, 0, rows))
            return
        for near in np.split(chosen, np.flatnonzero(np.diff(chosen) > BATCH_ROWS) + 1):
            if len(near):
                row = first = int(near[0])
                for table in reader.read(Slice(shard, rows, first, int(near[-1]) + 1 - first)):
                    within = near[(near >= row) & (near < row + len(table))] - row
                    row += len(table)
                    yield table.take(pa.array(within))
