"""First stage, on CPUs: the rows of a slice, tokenized."""

import os
import time

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

    def __call__(self, work: Work) -> Work:
        """Read and tokenize; a shard that cannot be read becomes a failure, not an exception."""
        started = time.monotonic()
        try:
            table, carried = read_rows(work.slice, self.columns)
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


def read_rows(piece: Slice, columns: InputColumns) -> tuple[pa.Table, dict[str, str]]:
    """The slice's rows, and input name -> output name of the columns to carry.

    Raises ShardError if the shard cannot be read or no longer has the rows.
    """
    try:
        with piece.shard.open() as file:
            parquet = pq.ParquetFile(file, buffer_size=_READ_BYTES)
            carried = columns.carried(parquet.schema_arrow)
            wanted = list(dict.fromkeys([*columns.texts, *carried]))
            schema = pa.schema([parquet.schema_arrow.field(name) for name in wanted])
            groups, skip = _row_groups(parquet.metadata, piece.first_row, piece.rows)
            batches: list[pa.RecordBatch] = []
            missing = piece.rows
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=groups, columns=wanted):
                part = batch.select(wanted).slice(skip, missing)
                skip = max(0, skip - batch.num_rows)
                missing -= part.num_rows
                if part.num_rows:
                    batches.append(part)
                if not missing:
                    break
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"cannot be read as Parquet: {error}") from error
    if missing:
        raise ShardError(f"changed while it was read: {missing} of {piece.rows} rows are gone")
    return pa.Table.from_batches(batches, schema), carried


def _row_groups(metadata: pq.FileMetaData, first: int, rows: int) -> tuple[list[int], int]:
    """The row groups that hold rows [first, first + rows), and the rows to skip in them."""
    groups: list[int] = []
    start = skip = 0
    for group in range(metadata.num_row_groups):
        stop = start + metadata.row_group(group).num_rows
        if start < first + rows and stop > first:
            if not groups:
                skip = first - start
            groups.append(group)
        start = stop
    return groups, skip


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
