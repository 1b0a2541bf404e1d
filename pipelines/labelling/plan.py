"""What has to be labelled: the difference between the input's shards and the ledger.

Shards whose records are complete are not opened. A rerun with nothing new therefore reads no data.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fastbert.errors import InputError
from fastbert.filesystem import redacted
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard
from pipelines.input.slices import Slice, count_rows
from pipelines.input.unreadable import ShardError, read_patiently
from pipelines.output.identity import Identity
from pipelines.output.ledger import Committed, Record
from pipelines.output.retry import Patience
from pipelines.output.storage import FOOTER_THREADS


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do."""

    shards: int
    todo: list[Slice]
    up_to_date: list[Record]
    #: Of these, the ones whose record is still to be written.
    adopted: list[Record]
    #: Other commits whose rows stay: of the last good version of shards that cannot be read now,
    #: and of shards that are no longer in the input, unless they are pruned.
    spared: list[Record]
    #: Commits whose rows go: no new slice writes over their files.
    removed: list[Record]
    #: Commits whose files will be written over. Their records must go first: were the run
    #: killed between rows and record, the old record would vouch for the new rows.
    replaced: list[Record]
    #: Files of labelled rows without a record that no new slice writes over. Those go that are not
    #: what this run would write: their rows would be there twice. Those stay whose shards cannot be
    #: read now, or are gone, unless these are pruned: they may be the only labels there are.
    swept: list[str]
    left: list[str]
    #: url -> why it cannot be labelled.
    bad_shards: dict[str, str]
    #: What this labelling's last commit was made in; None for a new output.
    precision: str | None

    @property
    def rows(self) -> int:
        """Rows to label."""
        return sum(piece.rows for piece in self.todo)

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.todo or self.adopted or self.removed or self.swept)


def make_plan(
    shards: list[Shard],
    output: Committed,
    identity: Identity,
    columns: InputColumns,
    slice_rows: int,
    relabel: bool,
    retry_quarantined: bool = False,
    precision: str | None = None,
    retry_errors: bool = False,
    prune: bool = False,
) -> Plan:
    """Compare shards with commits. `precision` is the one that was asked for, if one was.

    Raises InputError where commits were made with another identity or precision, or from another
    place, and `relabel` does not allow to replace them; and where not one shard can be labelled.
    """
    last = output.precision(identity)
    if last and precision and last != precision and not relabel:
        raise InputError(
            f"the output was labelled in {last}, --precision is {precision}; leave it out to go on "
            "as before, or pass --relabel to label everything again"
        )
    committed: dict[str, list[Record]] = defaultdict(list)
    for record in output.records:
        committed[record.shard].append(record)
    current: dict[str, list[Record]] = {}
    outdated: list[Record] = []
    for shard in shards:
        mine = committed.pop(shard.name, [])
        if not relabel:
            for record in mine:
                _check_replaceable(record, shard)
                _check_identity(record, identity)
        current[shard.name] = _disjoint(
            [
                record
                for record in mine
                if shard.has_version(record.version)
                and identity.difference(record.recipe) is None
                and not (retry_quarantined and record.quarantined)
                and not (retry_errors and record.model_errors)
                and not (relabel and precision and record.precision != precision)
            ]
        )
        kept = {record.path for record in current[shard.name]}
        outdated += [r for r in mine if r.path not in kept and r.path not in output.stray]
    up_to_date = [record for mine in current.values() for record in mine]
    vanished = [record for mine in committed.values() for record in mine]
    if not relabel and not up_to_date:
        for record in vanished:
            _check_identity(record, identity)

    rows = {name: mine[0].shard_rows for name, mine in current.items() if mine}
    bad_shards: dict[str, str] = {}
    new = [shard for shard in shards if shard.name not in rows]
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        counts = pool.map(lambda shard: _count_rows(shard, columns), new)
        for shard, count in zip(new, counts, strict=True):
            if isinstance(count, str):
                bad_shards[redacted(shard.url)] = count
            else:
                rows[shard.name] = count
    if shards and not rows:
        url, reason = next(iter(bad_shards.items()))
        raise InputError(f"not one shard can be labelled; {url}: {reason}")
    todo = [
        piece
        for shard in shards
        if shard.name in rows
        for piece in _gaps(shard, rows[shard.name], current[shard.name], slice_rows)
    ]
    paths = {piece.path for piece in todo}
    old = [r for r in outdated if r.shard in rows]  # others' are of their last good version
    adopted = [r for r in up_to_date if r.path in output.stray]
    written = paths | {r.path for r in adopted}
    stray = {path: name for path, name in output.stray.items() if path not in written}
    goes = rows.keys() | (set(output.stray.values()) - current.keys() if prune else set())
    return Plan(
        shards=len(shards),
        todo=todo,
        up_to_date=up_to_date,
        adopted=adopted,
        spared=[r for r in outdated if r.shard not in rows] + ([] if prune else vanished),
        removed=[r for r in old if r.path not in paths] + (vanished if prune else []),
        replaced=[r for r in old if r.path in paths],
        swept=[path for path, name in stray.items() if name in goes],
        left=[path for path, name in stray.items() if name not in goes],
        bad_shards=bad_shards,
        precision=last,
    )


def _check_replaceable(record: Record, shard: Shard) -> None:
    if record.source != redacted(shard.url):
        raise InputError(
            f"the output has labels of {record.source} as '{shard.name}', which would be replaced "
            f"by those of {redacted(shard.url)}; pass the folder above both as --input, another "
            "--output, or --relabel if the corpus has moved"
        )


def _check_identity(record: Record, identity: Identity) -> None:
    if difference := identity.difference(record.recipe):
        key, before, now = difference
        raise InputError(
            f"the output was labelled with {key} {before}, this run has {now}; "
            "pass --relabel to label everything again, or another --output"
        )


def _count_rows(shard: Shard, columns: InputColumns) -> int | str:
    """How many rows the shard has, or why it cannot be labelled."""
    if shard.problem is not None:
        return shard.problem
    try:
        return read_patiently(Patience(), count_rows, shard, columns)
    except ShardError as error:
        return str(error)


def _disjoint(records: list[Record]) -> list[Record]:
    """The records without those that overlap an earlier one."""
    kept: list[Record] = []
    for record in sorted(records, key=lambda r: r.first_row):
        if not kept or record.first_row >= kept[-1].first_row + kept[-1].rows:
            kept.append(record)
    return kept


def _gaps(shard: Shard, rows: int, done: list[Record], slice_rows: int) -> list[Slice]:
    """The row ranges of a shard that no record covers, cut into slices.

    A shard without rows gets one empty slice, so that it is not opened again the next night.
    """
    if rows == 0 and not done:
        return [Slice(shard, 0, 0, 0)]
    starts = [0, *(record.first_row + record.rows for record in done)]  # in order
    stops = [*(record.first_row for record in done), rows]
    return [
        Slice(shard, rows, first, min(slice_rows, stop - first))
        for start, stop in zip(starts, stops, strict=True)
        for first in range(start, stop, slice_rows)
    ]
