"""What an output holds, as tables: a row per slice, and no object for any."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.output.identity import Identity
from pipelines.output.manifests import PLAN_SCHEMA, PLANNED, rows_of
from pipelines.output.record import Record
from pipelines.output.sets import Mask, Sets

#: The path of a slice's labelled rows, as `table_path` has it.
PATH = "'table/' || shard || '.' || printf('%012d', first_row) || '.parquet'"


@dataclass(frozen=True)
class Committed:
    """What an output holds."""

    #: A row for each slice whose record and labelled rows are there: what plans read of it, and the
    #: manifest that holds it, "" for a record of its own.
    commits: pa.Table
    #: Files of labelled rows that no record in the ledger vouches for: their shards, by path.
    stray: dict[str, str] = field(default_factory=dict)
    #: What some of these say of themselves, by path. They are the last of the commits.
    adopted: dict[str, Record] = field(default_factory=dict)

    @property
    def recorded(self) -> Mask:
        """Which commits have a record in the ledger: all but the adopted."""
        return np.arange(len(self.commits)) < len(self.commits) - len(self.adopted)

    def recipe(self) -> dict[str, Any] | None:
        """That of the last commit; None if there is none."""
        with Sets(commits=self.commits.select(["committed_at", "recipe"])) as sets:
            last = sets.table("select arg_max(recipe, committed_at) as last from commits")
        text: str | None = last["last"][0].as_py()
        return None if text is None else json.loads(text)

    def precision(self, identity: Identity) -> str | None:
        """What the last commit with this identity was made in; None if there is none."""
        sql = """
            select arg_max(precision, committed_at) as last from commits
            where list_contains($same, recipe)
        """
        with Sets(commits=self.commits.select(["precision", "committed_at", "recipe"])) as sets:
            last: str | None = sets.table(sql, same=self.same(identity))["last"][0].as_py()
        return last

    def same(self, identity: Identity) -> list[str]:
        """Recipes of commits, as the ledger has them, that are of this identity."""
        recipes = pc.unique(self.commits["recipe"]).to_pylist()
        return [text for text in recipes if identity.difference(json.loads(text)) is None]


#: The columns of `Committed.commits`.
COMMITS = pa.schema([*PLAN_SCHEMA, ("manifest", pa.dictionary(pa.int32(), pa.string()))])


def commits_of(records: list[Record]) -> pa.Table:
    """Records of their own as rows of `Committed.commits`."""
    return held(rows_of(records), "")


def held(rows: pa.Table, manifest: str) -> pa.Table:
    """Rows of a manifest, or of none, as rows of `Committed.commits`."""
    first = pa.array(np.zeros(len(rows), np.int32))
    place = pa.DictionaryArray.from_arrays(first, pa.array([manifest]))
    return rows.select(PLANNED).append_column(COMMITS.field("manifest"), place)
