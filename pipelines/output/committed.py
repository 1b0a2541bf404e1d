"""The content of an output, as tables: a row per slice, and no Python object for each."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.output.identity import Identity
from pipelines.output.manifests import PLAN_SCHEMA, PLANNED, rows_of
from pipelines.output.record import Record
from pipelines.output.sets import Mask, chosen

#: The path of a slice's labelled rows, the same as `table_path`.
PATH = "'table/' || shard || '.' || printf('%012d', first_row) || '.parquet'"


@dataclass(frozen=True)
class Committed:
    """The content of an output."""

    #: A row for each slice whose record and labelled rows exist: the columns that plans read, and
    #: the manifest that holds it; "" if it has its own record.
    commits: pa.Table
    #: Files of labelled rows without a record in the ledger: their shards, by path.
    stray: dict[str, str] = field(default_factory=dict)
    #: Records read from some of these files, by path. They are the last of the commits.
    adopted: dict[str, Record] = field(default_factory=dict)

    @property
    def recorded(self) -> Mask:
        """Which commits have a record in the ledger: all except the adopted."""
        return np.arange(len(self.commits)) < len(self.commits) - len(self.adopted)

    @cached_property
    def recipes(self) -> dict[str, dict[str, Any]]:
        """Recipes of all commits: as in the ledger, and decoded."""
        return {text: json.loads(text) for text in pc.unique(self.commits["recipe"]).to_pylist()}

    def recipe(self) -> dict[str, Any] | None:
        """The recipe of the last commit with a record; None if there is none."""
        text = _last(
            chosen(self.commits.select(["committed_at", "recipe"]), self.recorded), "recipe"
        )
        return None if text is None else self.recipes[text]

    def precision(self, identity: Identity) -> str | None:
        """The precision of the last commit with this identity; None if there is none."""
        same = [text for text, each in self.recipes.items() if not identity.differences(each)]
        mine = pc.is_in(self.commits["recipe"], pa.array(same, pa.string()))
        return _last(self.commits.select(["committed_at", "precision"]).filter(mine), "precision")


def _last(commits: pa.Table, column: str) -> str | None:
    """A column's value in the last commit."""
    if not len(commits):
        return None
    place = pc.index(commits["committed_at"], pc.max(commits["committed_at"])).as_py()
    found: str = commits[column][place].as_py()
    return found


#: The columns of `Committed.commits`.
COMMITS = pa.schema([*PLAN_SCHEMA, ("manifest", pa.dictionary(pa.int32(), pa.string()))])


def commits_of(records: list[Record]) -> pa.Table:
    """Single records as rows of `Committed.commits`."""
    return held(rows_of(records), "")


def held(rows: pa.Table, manifest: str) -> pa.Table:
    """Rows of a manifest ("" for none) as rows of `Committed.commits`."""
    first = pa.array(np.zeros(len(rows), np.int32))
    place = pa.DictionaryArray.from_arrays(first, pa.array([manifest]))
    return rows.select(PLANNED).append_column(COMMITS.field("manifest"), place)
