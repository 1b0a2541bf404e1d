"""What has to be exported: the difference between the ledger and the exported table.

Every exported row says which slice, run and commit it is of. So the table itself is asked what it
has, and no list of what was exported can be wrong: not after a kill, not where runs are exported
late or together, not if the table was restored to an older version.
"""

from collections import defaultdict
from dataclasses import dataclass

from pipelines.output.ledger import Ledger, Record
from pipelines.output.lock import read_lock


@dataclass(frozen=True)
class Held:
    """A slice that the exported table has rows of."""

    slice_id: str
    shard: str
    first_row: int
    last_row: int
    run_id: str
    committed_at: str


@dataclass(frozen=True)
class Labelled:
    """What an output has to export."""

    #: Commits of runs that have ended.
    records: list[Record]
    #: Slices, by id, and shards that are in the output, or may soon be in it again.
    slices: set[str]
    shards: set[str]
    #: A run is at work, or was killed: what is missing may only be missing until the next one ends.
    unfinished: bool

    @classmethod
    def of(cls, ledger: Ledger) -> "Labelled":
        """Read the ledger."""
        # In this order: a run that ends meanwhile counts as one that has not, and one that
        # begins meanwhile is seen by its lock or its records.
        ended = ledger.storage.paths("stats", ".parquet")
        output = ledger.committed()
        locked = read_lock(ledger.storage) is not None
        records = [r for r in output.records if f"stats/{r.run_id}.parquet" in ended]
        return cls(
            records=[record for record in records if record.rows],
            slices={record.slice_id for record in output.records if record.rows},
            shards=set(output.stray.values()),
            unfinished=locked or len(records) < len(output.records),
        )


@dataclass(frozen=True)
class Change:
    """One transaction: what a run has added, and what has to go for it."""

    run_id: str | None
    added: list[Record]
    removed: set[str]  # ids of slices

    @property
    def rows(self) -> int:
        """How many are added."""
        return sum(record.rows for record in self.added)


def pending(output: Labelled, held: list[Held]) -> list[Record]:
    """The commits that the table does not have, in the order of their rows."""
    exported = {(h.slice_id, h.run_id, h.committed_at) for h in held}
    return [
        record
        for record in sorted(output.records, key=lambda r: (r.shard, r.first_row))
        if (record.slice_id, record.run_id, record.committed_at) not in exported
    ]


def next_change(output: Labelled, held: list[Held]) -> Change | None:
    """The earliest run that the table does not have, as a transaction; None if it has all."""
    runs: dict[str, list[Record]] = defaultdict(list)
    for record in pending(output, held):
        runs[record.run_id].append(record)
    removed = {
        h.slice_id
        for h in held
        if not (output.unfinished or h.slice_id in output.slices or h.shard in output.shards)
    }
    if not runs:
        return Change(None, [], removed) if removed else None
    # By time: names of runs need not sort, and can be used again.
    added = min(runs.values(), key=lambda records: max(r.committed_at for r in records))
    by_shard: dict[str, list[Record]] = defaultdict(list)
    for record in added:
        by_shard[record.shard].append(record)
    # Also where a shard was cut otherwise before: no version of the table has a row twice.
    replaced = {
        h.slice_id
        for h in held
        for record in by_shard[h.shard]
        if h.slice_id == record.slice_id
        or (h.first_row < record.first_row + record.rows and record.first_row <= h.last_row)
    }
    return Change(added[0].run_id, added, removed | replaced)
