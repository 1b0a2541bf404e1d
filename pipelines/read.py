"""First stage, on CPUs: the rows of a slice, tokenized."""

import os
import time
from bisect import bisect_right
from contextlib import ExitStack
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastbert.checkpoint import fetch_checkpoint, load_tokenizer
from fastbert.tokenizer import Tokenizer
from pipelines.plan import Slice
from pipelines.schema import InputColumns
from pipelines.shards import ShardError
from pipelines.work import ERROR, IDS, TYPES, Work

#: Rows decoded at a time, so that one huge row group does not fill the memory.
_BATCH_ROWS = 4096
#: Bytes of a column read at a time, for the same reason.
_READ_BYTES = 1 << 20


class ReadTokenize:
    """Slice -> carried columns, token ids and, for rows without usable text, the error."""

    def __init__(self, checkpoint: str, max_length: int, columns: InputColumns) -> None:
        # Readers run side by side, one core each.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.tokenize = Tokenizer(load_tokenizer(fetch_checkpoint(checkpoint)))
        self.max_length = max_length
        self.columns = columns
        self.rows = SliceReader(columns)

    def __call__(self, work: Work) -> Work:
        """Read and tokenize; a shard that cannot be read becomes a failure, not an exception."""
        started = time.monotonic()
        try:
            table, carried = self.rows.read(work.slice)
        except ShardError as error:
            return Work(work.slice, failure=str(error))
        read = time.monotonic()
        texts, errors = decode(table[self.columns.text])
        pairs = None
        if self.columns.pair is not None:
            pairs, pair_errors = decode(table[self.columns.pair])
            errors = [first or second for first, second in zip(errors, pair_errors, strict=True)]
        good = [i for i, error in enumerate(errors) if error is None]
        tokens = self.tokenize(
            [texts[i] for i in good],
            None if pairs is None else [pairs[i] for i in good],
            self.max_length,
        )
        # Rows with an error have no tokens: an empty list between their neighbours'.
        lengths = np.zeros(len(errors), np.int64)
        lengths[good] = tokens.lengths
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))
        result = table.select(list(carried)).rename_columns(list(carried.values()))
        result = result.append_column(IDS, pa.LargeListArray.from_arrays(offsets, tokens.ids))
        if tokens.types is not None:
            types = pa.LargeListArray.from_arrays(offsets, tokens.types)
            result = result.append_column(TYPES, types)
        result = result.append_column(ERROR, pa.array(errors, pa.string()))
        return work.with_table(
            result,
            read_seconds=read - started,
            tokenize_seconds=time.monotonic() - read,
        )


class SliceReader:
    """Reads the rows of slices, in any order; cheaply where one lies behind the last in its shard.

    Parquet can decode a row group from its start only. Were each slice opened for itself, the start
    of one huge row group would be decoded again for every slice in it, which is quadratic. So a
    reader keeps its place in a shard and goes on from there.
    """

    def __init__(self, columns: InputColumns) -> None:
        self.columns = columns
        self._place: _Place | None = None

    def read(self, piece: Slice) -> tuple[pa.Table, dict[str, str]]:
        """The slice's rows, and input name -> output name of the columns to carry.

        Raises ShardError if the shard cannot be read or no longer has the rows.
        """
        try:
            if self._place is None or not self._place.leads_to(piece):
                self.close()
                self._place = _Place(piece, self.columns)
            table = self._place.take(piece)
            if missing := piece.rows - table.num_rows:
                raise ShardError(
                    f"changed while it was read: {missing} of {piece.rows} rows are gone"
                )
            return table, self._place.carried
        except (pa.ArrowException, OSError) as error:
            self.close()
            raise ShardError(f"cannot be read as Parquet: {error}") from error

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
            parquet = pq.ParquetFile(file, buffer_size=_READ_BYTES)
            self.carried = columns.carried(parquet.schema_arrow)
            names = list(dict.fromkeys([*columns.texts, *self.carried]))
            self.schema = pa.schema([parquet.schema_arrow.field(name) for name in names])
            groups = range(parquet.num_row_groups)
            sizes = (parquet.metadata.row_group(group).num_rows for group in groups)
            self.starts = list(accumulate(sizes, initial=0))  # of the groups; at last, the end
            first = self._group(piece.first_row)
            self.row = self.starts[first]
            self.batches = parquet.iter_batches(_BATCH_ROWS, list(groups[first:]), columns=names)
            self.rest: pa.RecordBatch | None = None  # decoded, and not taken yet
            self.close = stack.pop_all().close

    def leads_to(self, piece: Slice) -> bool:
        """Whether going on gets to the slice, and no later than from its row group's start."""
        start = self.starts[self._group(piece.first_row)]
        return self.shard == piece.shard and start <= self.row <= piece.first_row

    def take(self, piece: Slice) -> pa.Table:
        """The slice's rows, or those that the shard has."""
        stop = piece.first_row + piece.rows
        parts = []
        while self.row < stop and (batch := self.rest or next(self.batches, None)):
            first = max(0, piece.first_row - self.row)
            last = min(batch.num_rows, stop - self.row)
            if first < last:
                parts.append(batch.select(self.schema.names).slice(first, last - first))
            self.row += last
            self.rest = batch.slice(last) if last < batch.num_rows else None
        return pa.Table.from_batches(parts, self.schema)

    def _group(self, row: int) -> int:
        """The row group that `row` lies in."""
        return max(0, bisect_right(self.starts, row, hi=len(self.starts) - 1) - 1)


def decode(column: pa.ChunkedArray) -> tuple[list[str], list[str | None]]:
    """Texts, and for each row without usable text why ("" stands in for its text)."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    raw = column.cast(pa.large_binary())
    try:
        # Through bytes and back: Arrow does not check that its strings are UTF-8, but a cast does.
        texts = raw.cast(pa.large_string()).to_pylist()
    except pa.ArrowInvalid:
        # One text that is not UTF-8 must cost its own row only.
        rows = [_decode(value) for value in raw.to_pylist()]
        return [text or "" for text, _ in rows], [error for _, error in rows]
    return [text or "" for text in texts], [_unusable(text) for text in texts]


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
