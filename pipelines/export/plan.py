"""What has to be exported: the difference between the ledger and the exported table.

Every exported row says which slice, run and commit it is of. So the table itself is asked what it
has, and no list of what was exported can be wrong: not after a kill, not where runs are exported
late or together, not if the table was restored to an older version.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fastbert.errors import InputError
from pipelines.output.history import SLICE_ID
from pipelines.output.ledger import Ledger
from pipelines.output.lock import read_lock
from pipelines.output.record import table_path
from pipelines.output.sets import Sets

#: What is known of each slice that the exported table has rows of.
HELD = pa.schema(
    [
        ("slice_id", pa.string()),
        ("shard", pa.string()),
        ("first_row", pa.int64()),
        ("last_row", pa.int64()),
        ("run_id", pa.string()),
        ("committed_at", pa.string()),
    ]
)
#: The same in SQL, of rows called `exported`.
SELECT_HELD = """
    select slice_id, shard, min(row) as first_row, max(row) as last_row, run_id, committed_at
    from exported where slice_id is not null group by slice_id, shard, run_id, committed_at
"""

#: Table property that says of which output the table is.
OUTPUT = "fastbert.output"


class Overtaken(Exception):
    """Another writer has changed the table meanwhile; nothing was written."""


@dataclass(frozen=True)
class Commit:
    """A slice to export."""

    slice_id: str
    shard: str
    first_row: int
    rows: int
    run_id: str
    committed_at: str

    @property
    def path(self) -> str:
        """Where its rows are, below the output root."""
        return table_path(self.shard, self.first_row)


@dataclass(frozen=True)
class Labelled:
    """What an output has to export."""

    #: Commits that have rows, as in `Committed.commits`.
    commits: pa.Table
    #: Runs that have ended: others' commits are not exported yet.
    ended: list[str]
    #: Shards of files without a record, which they may soon have again.
    stray: list[str]
    #: A run is at work, or was killed: what is missing may only be missing until the next one ends.
    unfinished: bool

    @classmethod
    def of(cls, ledger: Ledger) -> "Labelled":
        """Read the ledger."""
        # In this order: a run that ends meanwhile counts as one that has not, and one that
        # begins meanwhile is seen by its lock or its records.
        written = ledger.storage.paths("stats", ".parquet")
        output = ledger.committed()
        locked = read_lock(ledger.storage) is not None
        runs = pc.unique(output.commits["run_id"]).to_pylist()
        ended = [run for run in runs if f"stats/{run}.parquet" in written]
        return cls(
            commits=output.commits.filter(pc.greater(output.commits["rows"], 0)),
            ended=ended,
            stray=sorted({*output.stray.values()}),
            unfinished=locked or len(ended) < len(runs),
        )


@dataclass(frozen=True)
class Change:
    """One transaction: what a run has added, and what has to go for it."""

    run_id: str | None
    added: list[Commit]
    removed: set[str]  # ids of slices

    @property
    def rows(self) -> int:
        """How many are added."""
        return sum(commit.rows for commit in self.added)


_PENDING = f"""
    create temp table pending as
    select * from (select {SLICE_ID} as slice_id, * exclude (n) from commits)
    anti join held using (slice_id, run_id, committed_at)
    where list_contains($ended, run_id)
"""
_COMMIT = "slice_id, shard, first_row, rows, run_id, committed_at"
#: One of each shard.
_EACH_SHARD = f"""
    select {_COMMIT} from pending
    qualify row_number() over (partition by shard order by first_row desc) = 1 order by shard
"""
#: The earliest run by time: names of runs need not sort, and can be used again.
_ADDED = f"""
    select {_COMMIT} from pending
    where run_id = (select run_id from pending group by run_id
                    order by max(committed_at), run_id limit 1)
    order by shard, first_row
"""
#: Also where a shard was cut otherwise before: no version of the table has a row twice.
_REPLACED = """
    select distinct held.slice_id from held join added on held.shard = added.shard
    where held.slice_id = added.slice_id
       or held.first_row < added.first_row + added.rows and added.first_row <= held.last_row
"""
_GONE = f"""
    select distinct slice_id from held
    anti join (select {SLICE_ID} as slice_id from commits) using (slice_id)
    where not list_contains($stray, shard)
"""


def _sets(output: Labelled, held: pa.Table) -> Sets:
    sets = Sets(commits=output.commits, held=held)
    sets.run(_PENDING, ended=output.ended)
    return sets


def check_owner(table: str, owner: str | None, output: str) -> None:
    """Raises InputError if a table is of another output; `owner` is its property OUTPUT."""
    if owner != output:
        raise InputError(
            f"the {table} is of {owner or 'somebody else'}, expected {output}; export to another "
            f"one, or, if the output has moved, change the table's property {OUTPUT}"
        )


def pending_shards(output: Labelled, held: pa.Table) -> list[Commit]:
    """Of each shard with commits that the table does not have, one of these."""
    with _sets(output, held) as sets:
        return [Commit(**row) for row in sets.table(_EACH_SHARD).to_pylist()]


def next_change(output: Labelled, held: pa.Table) -> Change | None:
    """The earliest run that the table does not have, as a transaction; None if it has all."""
    with _sets(output, held) as sets:
        added = sets.table(_ADDED)
        sets.add("added", added)
        removed = {*sets.table(_REPLACED)["slice_id"].to_pylist()}
        if not output.unfinished:
            removed |= {*sets.table(_GONE, stray=output.stray)["slice_id"].to_pylist()}
    commits = [Commit(**row) for row in added.to_pylist()]
    if not commits and not removed:
        return None
    return Change(commits[0].run_id if commits else None, commits, removed)
