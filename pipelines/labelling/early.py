"""Answers rows that leave before the first layer in the readers: they do not travel to the model's
device, except audited ones.

Letters: N rows of a slice.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastbert.exits.rules import NO_EXIT
from fastbert.inference.cost import by_window
from fastbert.inference.decisions import Predictions, row_exits
from fastbert.inference.first_exit import FirstExit
from pipelines.labelling.audit_rows import Array, audit_rows
from pipelines.labelling.run import Run
from pipelines.labelling.token_columns import tokens_of
from pipelines.labelling.work import ERROR, IDS, WINDOWS, Early, Work


class AnswerEarly:
    """Answers the rows that can leave, and removes their tokens."""

    def __init__(self, run: Run, folder: Path) -> None:
        """Loads the checkpoint in `folder`."""
        self.exit = FirstExit(folder, run.identity.rules)
        if run.identity.all_scores:
            self.exit.questions = self.exit.questions.with_scores()
        self.audit_rate = run.audit_rate

    def __call__(self, work: Work) -> Work:
        table, where = work.table, work.slice
        good = pc.is_null(table[ERROR]).to_numpy(zero_copy_only=False)
        tokens = tokens_of(table, good)
        found = []
        for part, asked in zip(self.exit.classify(tokens), self.exit.questions, strict=True):
            found.append(Predictions.none(len(table), asked.task))
            found[-1].put(np.flatnonzero(good), part)
        lengths = np.zeros((len(table), *tokens.costly.shape[1:]), np.int64)
        lengths[good] = tokens.costly
        audited = audit_rows(where.shard.name, where.first_row, where.rows, self.audit_rate)
        stays = (row_exits(found) == NO_EXIT) | audited
        kept = tokens.take(np.flatnonzero(stays[good]))
        each = by_window(lengths)
        table = _emptied(table, IDS, each.sum(1) * stays, kept.ids)
        if kept.windows is not None:
            table = _emptied(table, WINDOWS, (each > 0).sum(1) * stays, kept.windows)
        return replace(work, table=table, early=Early(found, lengths))


def _emptied(table: pa.Table, name: str, lengths: Array, values: Array) -> pa.Table:
    """The table with a column replaced by lists of these lengths and values."""
    kind = table.schema.field(name).type.value_type
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(values, kind))
    return table.set_column(table.schema.get_field_index(name), name, lists)
