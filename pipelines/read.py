"""First stage, on CPUs: the rows of a slice, tokenized.

Rows are decoded and tokenized a few at a time, so that texts of any length fit the memory.
"""

import os
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastbert.checkpoint import fetch_checkpoint, load_tokenizer
from fastbert.tokenizer import Tokenizer
from fastbert.tokens import Tokens
from pipelines.isolate import Rows, isolate
from pipelines.plan import Slice
from pipelines.retry import Patience, passes
from pipelines.schema import UNREADABLE, InputColumns
from pipelines.shards import ShardError, read_patiently
from pipelines.work import ERROR, IDS, TYPES, Work

#: Rows and, about, bytes tokenized at a time, so that neither one huge row group nor huge texts
#: fill the memory.
_BATCH_ROWS, _BATCH_BYTES = 4096, 64 << 20
#: Rows decoded at a time, or as many as there are columns, whose batches take time each. Few,
#: because a footer does not tell how long rows are: a text that repeats is in the file once.
_DECODE_ROWS = 64
#: Largest row group that is fetched in whole, and else the bytes of a column read at a time.
_FETCH_BYTES, _READ_BYTES = 256 << 20, 1 << 20


class ReadTokenize:
    """Slice -> carried columns, token ids and, for rows without usable text, the error."""

    def __init__(
        self,
        checkpoint: str,
        max_length: int,
        columns: InputColumns,
        fingerprint: str | None = None,
    ) -> None:
        """With a `fingerprint`, the checkpoint at this URL must have it."""
        # Readers run side by side, one core each.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.tokenize = Tokenizer(load_tokenizer(fetch_checkpoint(checkpoint, fingerprint)))
        self.max_length = max_length
        self.columns = columns
        self.rows = SliceReader(columns)

    def __call__(self, work: Work) -> Work:
        """Read and tokenize; a shard that cannot be read becomes a failure, not an exception."""
        return self._patiently(work, None)

    def give_up(self, work: Work, reason: str) -> Work:
        """Only read: every row gets `reason` as its error."""
        return self._patiently(work, reason)

    def _patiently(self, work: Work, reason: str | None) -> Work:
        patience = Patience()
        try:
            done = read_patiently(patience, self._read, work, reason)
        except ShardError as error:
            return Work(work.slice, failure=str(error))
        return done.with_measured(retries=patience.retries)

    def _read(self, work: Work, reason: str | None) -> Work:
        started = time.monotonic()
        tokenizing = 0.0
        parts = []
        for rows in self.rows.read(work.slice):
            before = time.monotonic()
            parts.append(self._tokenized(rows, reason))
            tokenizing += time.monotonic() - before
        return work.with_table(
            pa.concat_tables(parts, promote_options="default"),
            read_seconds=time.monotonic() - started - tokenizing,
            tokenize_seconds=tokenizing,
            quarantined=reason is not None,
        )

    def _tokenized(self, table: pa.Table, reason: str | None) -> pa.Table:
        """Carried columns, token ids and errors of some rows."""
        texts, errors = decode(table[self.columns.text])
        pairs = None
        if self.columns.pair is not None:
            pairs, pair_errors = decode(table[self.columns.pair])
            errors = [first or second for first, second in zip(errors, pair_errors, strict=True)]
        if reason is not None:
            errors = [error or reason for error in errors]

        def run(rows: Rows) -> Tokens:
            first = [texts[i] for i in rows]
            second = None if pairs is None else [pairs[i] for i in rows]
            return self.tokenize(first, second, self.max_length)

        good = np.array([i for i, error in enumerate(errors) if error is None], np.int64)
        sizes = np.array([len(text) for text in texts], np.int64)
        if pairs is not None:
            sizes += [len(text) for text in pairs]
        found = []
        for rows in _portions(good, sizes[good]):
            some, failed = isolate(run, rows)
            found += some
            for row, why in failed.items():
                errors[row] = f"the tokenizer failed: {why}"
        # Rows with an error have no tokens: an empty list between their neighbours'.
        lengths = np.zeros(len(errors), np.int64)
        for rows, tokens in found:
            lengths[rows] = tokens.lengths
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))

        def column(values: list[np.ndarray[Any, Any]], kind: pa.DataType) -> pa.Array:
            joined: Any = np.concatenate(values) if values else []
            return pa.LargeListArray.from_arrays(offsets, pa.array(joined, kind))

        carried = self.columns.carried(table.schema)
        result = table.select(list(carried)).rename_columns(list(carried.values()))
        result = result.append_column(IDS, column([t.ids for _, t in found], pa.int32()))
        if types := [t.types for _, t in found if t.types is not None]:
            result = result.append_column(TYPES, column(types, pa.int8()))
        return result.append_column(ERROR, pa.array(errors, pa.string()))


class SliceReader:
    """Reads the rows of slices, in any order; cheaply where one lies behind the last in its shard.

    Parquet can decode a row group from its start only. Were each slice opened for itself, the start
    of one huge row group would be decoded again for every slice in it, which is quadratic. So a
    reader keeps its place in a shard and goes on from there.
    """

    def __init__(self, columns: InputColumns) -> None:
        self.columns = columns
        self._place: _Place | None = None

    def read(self, piece: Slice) -> Iterator[pa.Table]:
        """The slice's rows, some at a time, but at least once, though it be none.

        Raises ShardError if the shard cannot be read or no longer has the rows, and the store's
        own error if that may pass.
        """
        rows = 0
        try:
            if self._place is None or not self._place.leads_to(piece):
                self.close()
                self._place = _Place(piece, self.columns)
            for batch in self._place.take(piece):
                rows += batch.num_rows
                yield batch
        except UNREADABLE as error:
            self.close()
            if passes(error):
                raise
            raise ShardError(f"cannot be read as Parquet: {error}") from error
        except BaseException:
            self.close()  # it is not known where
            raise
        if missing := piece.rows - rows:
            self.close()
            raise ShardError(f"changed while it was read: {missing} of {piece.rows} rows are gone")
        if not rows:
            yield self._place.schema.empty_table()

    def close(self) -> None:
        """Let go of the open shard, if there is one."""
        if self._place is not None:
            self._place.close()
            self._place = None


class _Place:
    """An open shard, decoded up to `row`."""

    def __init__(self, piece: Slice, columns: InputColumns) -> None:
        self.shard = piece.shard
        with ExitStack() as stack:
            file = stack.enter_context(piece.shard.open())
            metadata = pq.read_metadata(file)
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            largest = max((group.total_byte_size for group in groups), default=0)
            parquet = pq.ParquetFile(
                file,
                metadata=metadata,
                buffer_size=_READ_BYTES,
                pre_buffer=largest <= _FETCH_BYTES,
                page_checksum_verification=True,
            )
            schema = parquet.schema_arrow
            names = list(dict.fromkeys([*columns.texts, *columns.carried(schema)]))
            self.schema = pa.schema([schema.field(name) for name in names])
            sizes = (group.num_rows for group in groups)
            self.starts = list(accumulate(sizes, initial=0))  # of the groups; at last, the end
            first = self._group(piece.first_row)
            self.row = self.starts[first]
            bytes_per_row = max(
                (g.total_byte_size // max(1, g.num_rows) for g in groups), default=0
            )
            at_once = min(
                _BATCH_ROWS,
                max(_DECODE_ROWS, len(names)),
                max(1, _BATCH_BYTES // max(1, bytes_per_row)),
            )
            # Arrow keeps what it has fetched for a call until the next one.
            self.batches = (
                batch
                for run in _runs(groups, first)
                for batch in parquet.iter_batches(at_once, run, columns=names)
            )
            self.rest: pa.RecordBatch | None = None  # decoded, and not taken yet
            self.close = stack.pop_all().close

    def leads_to(self, piece: Slice) -> bool:
        """Whether going on gets to the slice, and no later than from its row group's start."""
        start = self.starts[self._group(piece.first_row)]
        return self.shard == piece.shard and start <= self.row <= piece.first_row

    def take(self, piece: Slice) -> Iterator[pa.Table]:
        """The slice's rows, some at a time, or those that the shard has."""
        stop = piece.first_row + piece.rows
        some: list[pa.RecordBatch] = []
        rows = size = 0
        while self.row < stop and (batch := self.rest or next(self.batches, None)):
            first = max(0, piece.first_row - self.row)
            last = min(batch.num_rows, stop - self.row)
            self.row += last
            self.rest = batch.slice(last) if last < batch.num_rows else None
            if first >= last:
                continue
            part = batch.select(self.schema.names).slice(first, last - first)
            rows, size = rows + part.num_rows, size + part.nbytes
            if some and (rows > _BATCH_ROWS or size > _BATCH_BYTES):
                yield pa.Table.from_batches(some, self.schema)
                some, rows, size = [], part.num_rows, part.nbytes
            some.append(part)
        if some:
            yield pa.Table.from_batches(some, self.schema)

    def _group(self, row: int) -> int:
        """The row group that `row` lies in."""
        return max(0, bisect_right(self.starts, row, hi=len(self.starts) - 1) - 1)


def _runs(groups: list[pq.RowGroupMetaData], first: int) -> Iterator[list[int]]:
    """Row groups from `first` on, small ones together: what is fetched at a time."""
    run: list[int] = []
    rows = size = 0
    for i in range(first, len(groups)):
        rows, size = rows + groups[i].num_rows, size + groups[i].total_byte_size
        if run and (rows > _BATCH_ROWS or size > _BATCH_BYTES):
            yield run
            run, rows, size = [], groups[i].num_rows, groups[i].total_byte_size
        run.append(i)
    if run:
        yield run


def _portions(rows: Rows, sizes: Rows) -> list[Rows]:
    """Rows whose texts are tokenized at a time: a text that repeats is in memory once before."""
    portion = np.cumsum(sizes) // _BATCH_BYTES
    return np.split(rows, np.flatnonzero(np.diff(portion)) + 1)


def decode(column: pa.ChunkedArray) -> tuple[list[str], list[str | None]]:
    """Texts, and for each row without usable text why ("" stands in for its text)."""
    if pa.types.is_dictionary(column.type):
        return _decode_dictionaries(column)
    raw = column.cast(pa.large_binary())
    try:
        # Through bytes and back: Arrow does not check that its strings are UTF-8, but a cast does.
        texts = raw.cast(pa.large_string()).to_pylist()
    except pa.ArrowInvalid:
        # One text that is not UTF-8 must cost its own row only.
        rows = [_decode(value) for value in raw.to_pylist()]
        return [text or "" for text, _ in rows], [error for _, error in rows]
    return [text or "" for text in texts], [_unusable(text) for text in texts]


def _decode_dictionaries(column: pa.ChunkedArray) -> tuple[list[str], list[str | None]]:
    """`decode`, with each value in memory once, however often it is there."""
    texts: list[str] = []
    errors: list[str | None] = []
    values = None
    for chunk in column.chunks:
        if values is None or not chunk.dictionary.equals(values):
            values = chunk.dictionary
            known = [*zip(*decode(pa.chunked_array([values])), strict=True), ("", _unusable(None))]
        for i in chunk.indices.to_pylist():
            text, error = known[-1 if i is None else i]
            texts.append(text)
            errors.append(error)
    return texts, errors


def _decode(raw: bytes | None) -> tuple[str | None, str | None]:
    try:
        text = None if raw is None else raw.decode()
    except UnicodeDecodeError as error:
        return None, f"text is not UTF-8: {error.reason} at byte {error.start}"
    return text, _unusable(text)


def _unusable(text: str | None) -> str | None:
    if text is None:
        return "text is null"
    return "text is empty" if not text or text.isspace() else None
