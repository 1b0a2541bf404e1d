"""First stage, on CPUs: the rows of a slice, tokenized.

Rows are decoded and tokenized in small batches, so that texts of any length fit into memory.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastbert.checkpoint import fetch_checkpoint
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from fastbert.tokenizer import load_tokenizer
from pipelines.input.batches import BATCH_BYTES
from pipelines.input.formats.format import BROKEN
from pipelines.input.metadata import kept
from pipelines.input.slices import SliceReader
from pipelines.input.texts import decode
from pipelines.input.unreadable import ShardError, read_patiently
from pipelines.labelling.isolate import Rows, isolate
from pipelines.labelling.known import blamed_on_machine, known_tokens
from pipelines.labelling.run import Run, columns_of
from pipelines.labelling.work import ERROR, IDS, TRUNCATED, TYPES, WINDOWS, Failed, Work
from pipelines.output.retry import Patience


class ReadTokenize:
    """Slice -> carried columns, token ids and, for rows without usable text, the error."""

    def __init__(self, run: Run) -> None:
        # Readers run side by side, one core each.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        tokenizer = load_tokenizer(fetch_checkpoint(run.model, run.tokenizer, weights=False))
        with blamed_on_machine("the tokenizer cannot be made ready", "cpu"):
            self.tokenize = Tokenizer(tokenizer, run.identity.windowing)
        self.max_length = run.identity.max_length
        self.columns = replace(columns_of(run.identity), fields=run.fields)
        self.rows = SliceReader(self.columns)
        self.answer_early: Callable[[Work], Work] | None = None
        if run.answer_early:
            from pipelines.labelling.early import AnswerEarly  # imports torch

            folder = fetch_checkpoint(run.model, run.identity.checkpoint)
            with blamed_on_machine("the first exit cannot be made ready", "cpu"):
                self.answer_early = AnswerEarly(run, folder)

    def __call__(self, work: Work, given_up: str | None = None) -> Work | Failed:
        """Read and tokenize; with `given_up`, only read, and give it to every row as error."""
        patience = Patience()
        try:
            done = read_patiently(patience, self._read, work, given_up)
        except ShardError as error:
            return Failed(work.slice, str(error))
        return done.retried(patience.retries)

    def check(self) -> None:
        """Tokenize known texts; MachineError if that fails."""
        known_tokens(self.tokenize, len(self.columns.texts) > 1, self.max_length)

    def _read(self, work: Work, given_up: str | None) -> Work:
        started = time.monotonic()
        tokenizing = 0.0
        parts = []
        for rows in self.rows.read(work.slice):
            before = time.monotonic()
            parts.append(self._tokenized(rows, given_up))
            tokenizing += time.monotonic() - before
        work = replace(work, table=pa.concat_tables(parts, promote_options="default"))
        if self.answer_early:
            before = time.monotonic()
            work = self.answer_early(work)
            tokenizing += time.monotonic() - before
        stats = replace(
            work.stats,
            read_seconds=time.monotonic() - started - tokenizing,
            tokenize_seconds=tokenizing,
            truncated_rows=pc.sum(work.table[TRUNCATED], min_count=0).as_py(),
            quarantined=given_up is not None,
        )
        return replace(work, stats=stats)

    def _tokenized(self, table: pa.Table, given_up: str | None) -> pa.Table:
        """Carried columns, token ids and errors of a batch of rows."""
        decoded = [decode(table[name]) for name in self.columns.texts]
        texts = [some for some, _ in decoded]  # by column
        wrong = [of_column for _, of_column in decoded]
        if BROKEN.name in table.column_names:
            wrong.insert(0, table[BROKEN.name].to_pylist())
            table = table.drop_columns(BROKEN.name)
        errors = [given_up] * len(table)
        if any(map(any, wrong)):
            errors = [next(filter(None, row), given_up) for row in zip(*wrong, strict=True)]

        def run(rows: Rows) -> Tokens:
            every = len(rows) == len(table)
            chosen = [column if every else [column[i] for i in rows] for column in texts]
            pairs = chosen[1] if len(chosen) > 1 else None
            return self.tokenize(chosen[0], pairs, self.max_length)

        good = np.array([i for i, error in enumerate(errors) if error is None], np.int64)
        sizes = np.sum([np.fromiter(map(len, column), np.int64) for column in texts], 0)
        found = []
        for rows in _portions(good, sizes[good]):
            some, failed = isolate(run, rows, self.check)
            found += some
            for row, why in failed.items():
                errors[row] = f"the tokenizer failed: {why}"
        # Rows with an error have no tokens: an empty list between the others.
        lengths, truncated = np.zeros(len(errors), np.int64), np.zeros(len(errors), bool)
        for rows, tokens in found:
            lengths[rows], truncated[rows] = tokens.lengths, tokens.truncated
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))

        def column(values: list[np.ndarray[Any, Any]], kind: pa.DataType) -> pa.Array:
            joined: Any = np.concatenate(values) if values else []
            return pa.LargeListArray.from_arrays(offsets, pa.array(joined, kind))

        carried = self.columns.carried(table.schema)
        result = table.select(list(carried)).rename_columns(list(carried.values()))
        result = result.append_column(IDS, column([t.ids for _, t in found], pa.int32()))
        if types := [t.types for _, t in found if t.types is not None]:
            result = result.append_column(TYPES, column(types, pa.int8()))
        if self.tokenize.windows is not None:
            result = result.append_column(WINDOWS, _window_lengths(len(errors), found))
        result = result.append_column(TRUNCATED, pa.array(truncated, mask=lengths == 0))
        result = result.append_column(ERROR, pa.array(errors, pa.string()))
        return result.replace_schema_metadata(kept(table.schema.metadata, carried))


def _window_lengths(rows: int, found: list[tuple[Rows, Tokens]]) -> pa.Array:
    """The lengths of the windows of each of `rows` rows, from the parts in `found`."""
    counts = np.zeros(rows, np.int64)
    sizes: list[Any] = [[]]
    for some, tokens in found:
        assert tokens.counts is not None
        counts[some] = tokens.counts
        sizes.append(tokens.windows)
    ends = pa.array(np.concatenate([[0], np.cumsum(counts)]))
    return pa.LargeListArray.from_arrays(ends, pa.array(np.concatenate(sizes), pa.int32()))


def _portions(rows: Rows, sizes: Rows) -> list[Rows]:
    """Groups of rows to tokenize at a time: before that, a repeated text is in memory once."""
    portion = np.cumsum(sizes) // BATCH_BYTES
    return np.split(rows, np.flatnonzero(np.diff(portion)) + 1)
