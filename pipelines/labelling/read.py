"""First stage, on CPUs: the rows of a slice, tokenized.

Rows are decoded and tokenized a few at a time, so that texts of any length fit the memory.
"""

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from fastbert.checkpoint import fetch_checkpoint, load_tokenizer
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from pipelines.input.slices import BATCH_BYTES, SliceReader
from pipelines.input.texts import decode
from pipelines.input.unreadable import ShardError, read_patiently
from pipelines.labelling.isolate import Rows, isolate
from pipelines.labelling.run import Run
from pipelines.labelling.work import ERROR, IDS, TYPES, Work
from pipelines.output.retry import Patience


class ReadTokenize:
    """Slice -> carried columns, token ids and, for rows without usable text, the error."""

    def __init__(self, run: Run) -> None:
        # Readers run side by side, one core each.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        checkpoint = fetch_checkpoint(run.model, run.identity.checkpoint)
        self.tokenize = Tokenizer(load_tokenizer(checkpoint))
        self.max_length = run.identity.max_length
        self.columns = run.columns
        self.rows = SliceReader(self.columns)

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
        return done.retried(patience.retries)

    def _read(self, work: Work, reason: str | None) -> Work:
        started = time.monotonic()
        tokenizing = 0.0
        parts = []
        for rows in self.rows.read(work.slice):
            before = time.monotonic()
            parts.append(self._tokenized(rows, reason))
            tokenizing += time.monotonic() - before
        table = pa.concat_tables(parts, promote_options="default")
        stats = replace(
            work.stats,
            read_seconds=time.monotonic() - started - tokenizing,
            tokenize_seconds=tokenizing,
            quarantined=reason is not None,
        )
        return replace(work, table=table, stats=stats)

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


def _portions(rows: Rows, sizes: Rows) -> list[Rows]:
    """Rows whose texts are tokenized at a time: a text that repeats is in memory once before."""
    portion = np.cumsum(sizes) // BATCH_BYTES
    return np.split(rows, np.flatnonzero(np.diff(portion)) + 1)
