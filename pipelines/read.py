"""First stage, on CPUs: the rows of a slice, tokenized."""

import os
import time
from typing import Any

import numpy as np
import pyarrow as pa

from fastbert.checkpoint import fetch_checkpoint, load_tokenizer
from fastbert.tokens import tokenize
from pipelines.rows import SliceReader
from pipelines.schema import InputColumns
from pipelines.shards import ShardError
from pipelines.work import ERROR, IDS, TYPES, Work


class ReadTokenize:
    """Slice -> carried columns, token ids and, for rows without usable text, the error."""

    def __init__(self, checkpoint: str, max_length: int, columns: InputColumns) -> None:
        # Readers run side by side, one core each.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.tokenizer = load_tokenizer(fetch_checkpoint(checkpoint))
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
        tokens = tokenize(
            self.tokenizer,
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


def decode(column: pa.ChunkedArray) -> tuple[list[str], list[str | None]]:
    """Texts, and for each row without usable text why ("" stands in for its text)."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    texts: list[str] = []
    errors: list[str | None] = []
    # Through bytes: Arrow does not check that its strings are UTF-8, and one that is not must
    # cost its own row only.
    for raw in column.cast(pa.large_binary()).to_pylist():
        text, error = _decode(raw)
        texts.append(text)
        errors.append(error)
    return texts, errors


def _decode(raw: Any) -> tuple[str, str | None]:
    if raw is None:
        return "", "text is null"
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return "", f"text is not UTF-8: {error.reason} at byte {error.start}"
    return text, None if text.strip() else "text is empty"
