"""Whole tables in memory, for training and evaluation."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastbert.configuration import check_distinct
from fastbert.errors import FastBertError, InputError
from fastbert.exits.question import Kind
from fastbert.filesystem import is_transient, redacted
from fastbert.tasks.questions import Questions
from fastbert.training.examples import Examples
from pipelines.input.batches import BATCH_ROWS
from pipelines.input.columns import InputColumns
from pipelines.input.scans import Scans
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice, SliceReader
from pipelines.input.targets import Targets
from pipelines.input.texts import usable_texts
from pipelines.input.unreadable import ShardError, read_patiently
from pipelines.output.retry import Patience
from pipelines.output.storage import FOOTER_THREADS
from pipelines.settings import LabelledTexts

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Rows = NDArray[np.int64]

#: Most files that a sample is drawn from.
_MOST_SHARDS = 256


@dataclass(frozen=True)
class Known:
    """What is known about a question before the values of its column are read."""

    kind: Kind | None = None
    names: list[str] | None = None  # of its classes


@dataclass(frozen=True)
class Found:
    """Targets found in a column."""

    column: str
    kind: Kind
    names: list[str]  # of its classes


def known_of(questions: Questions) -> list[Known]:
    """What a model knows about its questions."""
    return [Known(each.task.question.kind, list(each.task.names)) for each in questions]


def columns_of_truth(given: tuple[str, ...], questions: Questions) -> tuple[str, ...]:
    """The columns of true labels for a model's questions: those given, one for each, or, for
    several questions, those with their names. Raises InputError if the numbers of columns and
    questions differ."""
    names = tuple(each.name for each in questions)
    if len(names) > 1 and given == LabelledTexts.label_column:
        return names
    if len(given) != len(names):
        raise InputError(
            f"--label-column is {', '.join(given)}, the checkpoint answers {len(names)} "
            f"question{'s' * (len(names) > 1)}; expected a column for each"
            + (f", in this order: {', '.join(names)}" if len(names) > 1 else "")
        )
    return given


def read_examples(
    urls: list[str],
    columns: InputColumns,
    labels: list[str] | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> tuple[Examples, list[str]]:
    """`read_labelled` with one label column, whose classes are `labels` if given, or with none; and
    the class names."""
    known = [Known("single-label", labels) for _ in columns.labels]
    examples, found = read_labelled(urls, columns, known, sample, seed)
    return examples, found[0].names if found else labels or []


def read_labelled(
    urls: list[str],
    columns: InputColumns,
    known: Sequence[Known],
    sample: int | None = None,
    seed: int = 0,
) -> tuple[Examples, list[Found]]:
    """The rows of all shards at `urls`, in order, and the targets found in the label columns.

    The kind of question is given or follows from the column's type; the classes are given or found,
    and sorted: see `Targets`. Targets of several questions form one row, as in `Questions`. With
    `sample`, only this number of rows is read, drawn at random with `seed`. Rows without usable
    text are left out. Raises InputError for shards that the labelling job would not label, for
    missing labels or unknown classes, and for two equal classes; FastBertError if a store does not
    answer.
    """
    if double := [name for name in columns.labels if name in columns.texts]:
        raise InputError(
            f"column '{double[0]}' is given both as text and as label; name another one with "
            "--label-column or --text-column"
        )
    if len({*columns.labels}) < len(columns.labels):
        raise InputError(f"--label-column names a column twice: {', '.join(columns.labels)}")
    for each in known:
        check_distinct(each.names or [])
    columns = replace(columns, carry=columns.labels)
    shards, scans = find_shards(urls), Scans()
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        found_in = [*pool.map(lambda shard: _sound(shard, scans.of, shard, columns), shards)]
    columns, sizes = replace(columns, fields=scans.fields()), [each.rows for each in found_in]
    drawn: list[Rows | None] = [None] * len(shards)
    total = sum(sizes)
    read = total if sample is None else min(sample, total)
    if sample is not None:
        some = np.random.default_rng(seed).choice(total, read, replace=False)
        drawn = [*_within(some, sizes)]
    texts: list[list[str]] = [[] for _ in columns.texts]
    targets = [Targets(name, each.kind) for name, each in zip(columns.labels, known, strict=True)]
    for shard, rows, chosen in zip(shards, sizes, drawn, strict=True):
        sides, given = _sound(shard, _read, shard, rows, chosen, columns)
        for column, side in zip(texts, sides, strict=True):
            column += side
        for table, of in product(given, targets):
            try:
                of.add(table[of.column])
            except InputError as error:
                raise InputError(
                    f"{redacted(shard.url)}: column '{of.column}' {error}; name another one with "
                    "--label-column"
                ) from error
    if not texts[0]:
        raise InputError(f"no row of {', '.join(map(redacted, urls))} has a text")
    if bad := read - len(texts[0]):
        log.warning("%d of %d rows have no usable text and are left out", bad, read)
    values, found = [], []
    for of, each in zip(targets, known, strict=True):
        names, rows_of = of.finish(each.names)
        assert of.kind is not None  # it has rows
        values.append(rows_of)
        found.append(Found(of.column, of.kind, names))
    return Examples(texts[0], texts[1] if columns.pair else None, _joined(values, found)), found


def _within(rows: Rows, sizes: Sequence[int]) -> list[Rows]:
    """Row numbers over all shards, sorted and split by shards of these sizes, counted from each
    start."""
    rows, ends = np.sort(rows), np.cumsum(sizes)
    parts = np.split(rows, np.searchsorted(rows, ends[:-1]))
    return [part - (end - size) for part, end, size in zip(parts, ends, sizes, strict=True)]


def sample_texts(
    urls: list[str],
    columns: InputColumns,
    wanted: Callable[[int], int],
    scans: Scans,
    seed: int = 0,
) -> tuple[Examples, int]:
    """Texts of rows drawn at random, and the number of all rows; `wanted` turns that into the
    number to draw. Unreadable files are left out, as in the labelling job. The rows come from at
    most `_MOST_SHARDS` files, drawn by their numbers of rows, because reading all files takes as
    long as labelling them. Raises InputError if no file can be read, or no drawn row has a text.
    """
    columns, shards = replace(columns, carry=()), find_shards(urls)
    found = [*zip(shards, scans.each(shards, columns), strict=True)]
    sizes = [(shard, scan.rows) for shard, scan in found if not isinstance(scan, str)]
    columns = replace(columns, fields=scans.fields())
    total = sum(rows for _, rows in sizes)
    generator = np.random.default_rng(seed)
    if not sizes:
        shard, why = found[0]
        raise InputError(
            f"no file of {', '.join(map(redacted, urls))} can be used: {redacted(shard.url)} {why}"
        )
    if len(sizes) > _MOST_SHARDS and total:
        weights = np.array([rows for _, rows in sizes]) / total
        most = min(_MOST_SHARDS, int((weights > 0).sum()))
        some = np.sort(generator.choice(len(sizes), most, replace=False, p=weights))
        log.info("drawing a sample from %d of %d files", most, len(sizes))
        sizes = [sizes[place] for place in some]
    there = sum(rows for _, rows in sizes)
    drawn = generator.choice(there, min(wanted(total), there), replace=False)
    texts: list[list[str]] = [[] for _ in columns.texts]
    parts = _within(drawn, [rows for _, rows in sizes])
    for (shard, size), part in zip(sizes, parts, strict=True):
        with suppress(ShardError):  # the labelling job reports it
            sides, _ = read_patiently(Patience(), _read, shard, size, part, columns)
            for column, side in zip(texts, sides, strict=True):
                column += side
    if not texts[0]:
        raise InputError(f"no row of {', '.join(map(redacted, urls))} has a text")
    order = generator.permutation(len(texts[0])).tolist()
    return Examples(texts[0], texts[1] if columns.pair else None).take(order), total


def _joined(values: list[list[Any]], found: list[Found]) -> list[Any] | None:
    """The targets of each row: as they are for one question, concatenated for several."""
    if len(values) < 2:
        return values[0] if values else None
    parts = []
    for each, of in zip(values, found, strict=True):
        part = np.array(each, np.float32)
        if of.kind == "single-label" and part.ndim == 1:
            part = np.eye(len(of.names), dtype=np.float32)[part.astype(int)]
        parts.append(part.reshape(len(each), -1))
    joined: list[Any] = np.hstack(parts).tolist()
    return joined


def _sound(shard: Shard, read: Callable[..., Result], *arguments: Any) -> Result:
    """The result of `read`. One bad shard refuses the whole input, because no model should learn
    from half of it, or be evaluated on half of it."""
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
) -> tuple[list[list[str]], list[pa.Table]]:
    """Texts by column, and the label columns, of all rows with usable text, or of the `chosen`
    ones."""
    texts: list[list[str]] = [[] for _ in columns.texts]
    given = []
    for table in _tables(shard, rows, chosen, columns):
        sides, usable = usable_texts(table, columns.texts)
        for column, side in zip(texts, sides, strict=True):
            column += side
        given.append(table.select(list(columns.labels)).filter(pa.array(usable, pa.bool_())))
    return texts, given


def _tables(
    shard: Shard, rows: int, chosen: Rows | None, columns: InputColumns
) -> Iterator[pa.Table]:
    """The rows in batches; row groups without `chosen` rows are skipped."""
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
