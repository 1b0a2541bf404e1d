"""What has to be labelled: the difference between the input's shards and the ledger.

Shards whose records are complete are not opened. A rerun with nothing new therefore reads no data.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastbert.errors import InputError
from fastbert.filesystem import shown
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, ShardError, read_patiently
from pipelines.input.slices import Slice
from pipelines.output.ledger import Committed, Record
from pipelines.output.retry import Patience

#: Footers read at the same time; each waits for the store, not for a core.
_FOOTER_THREADS = 32


@dataclass
class Plan:
    """What a run will do."""

    shards: int = 0
    todo: list[Slice] = field(default_factory=list)
    up_to_date: list[Record] = field(default_factory=list)
    #: Commits of older versions or other settings whose files no new slice writes over.
    superseded: list[Record] = field(default_factory=list)
    #: Such commits whose files will be written over. Their records must go first: were the run
    #: killed between rows and record, the old record would vouch for the new rows.
    replaced: list[Record] = field(default_factory=list)
    #: Commits of the last good version of shards that cannot be read now.
    spared: list[Record] = field(default_factory=list)
    #: Commits of shards that are no longer in the input.
    vanished: list[Record] = field(default_factory=list)
    #: Files of labelled rows without a record that no new slice writes over. Killed runs leave
    #: them; a run with other slices would repeat their rows.
    leftovers: list[str] = field(default_factory=list)
    #: url -> why it cannot be labelled.
    bad_shards: dict[str, str] = field(default_factory=dict)


def make_plan(
    shards: list[Shard],
    output: Committed,
    recipe: dict[str, Any],
    columns: InputColumns,
    slice_rows: int,
    relabel: bool,
    retry_quarantined: bool = False,
) -> Plan:
    """Compare shards with commits.

    Raises InputError where commits were made with another recipe, or from another place, and
    `relabel` does not allow to replace them; and where not one shard can be labelled.
    """
    plan = Plan(shards=len(shards))
    committed: dict[str, list[Record]] = defaultdict(list)
    for record in output.records:
        committed[record.shard].append(record)
    current: dict[str, list[Record]] = {}
    for shard in shards:
        mine = committed.pop(shard.name, [])
        if not relabel:
            for record in mine:
                _check_replaceable(record, shard, recipe)
        current[shard.name] = _disjoint(
            [
                record
                for record in mine
                if shard.has_version(record.version)
                and record.recipe == recipe
                and not (retry_quarantined and record.quarantined)
            ]
        )
        kept = {record.first_row for record in current[shard.name]}
        plan.superseded += [record for record in mine if record.first_row not in kept]
        plan.up_to_date += current[shard.name]
    plan.vanished = [record for mine in committed.values() for record in mine]
    if not relabel and not plan.up_to_date:
        for record in plan.vanished:
            _check_recipe(record, recipe)

    new = [shard for shard in shards if not current[shard.name]]
    bad = set()
    rows = {name: mine[0].shard_rows for name, mine in current.items() if mine}
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        results = pool.map(lambda shard: _count_rows(shard, columns), new)
        for shard, result in zip(new, results, strict=True):
            if isinstance(result, ShardError):
                plan.bad_shards[shown(shard.url)] = str(result)
                bad.add(shard.name)
            else:
                rows[shard.name] = result
    if bad and len(bad) == len(shards):
        url, reason = next(iter(plan.bad_shards.items()))
        raise InputError(f"not one shard can be labelled; {url}: {reason}")
    for shard in shards:
        if shard.name in rows:
            plan.todo += _gaps(shard, rows[shard.name], current[shard.name], slice_rows)
    # Bad shards keep what was committed of their last good version.
    plan.spared = [record for record in plan.superseded if record.shard in bad]
    old = [record for record in plan.superseded if record.shard not in bad]
    paths = {piece.path for piece in plan.todo}
    plan.superseded = [record for record in old if record.path not in paths]
    plan.replaced = [record for record in old if record.path in paths]
    # A record that cannot be read still says that the rows were committed: they are only removed
    # where this run knows all rows of their shard.
    plan.leftovers = [
        path
        for path, stray in sorted(output.stray.items())
        if path not in paths and (stray.shard in rows or not stray.has_record)
    ]
    return plan


def _check_replaceable(record: Record, shard: Shard, recipe: dict[str, Any]) -> None:
    if record.source != shown(shard.url):
        raise InputError(
            f"the output has labels of {record.source} as '{shard.name}', which would be replaced "
            f"by those of {shown(shard.url)}; pass the folder above both as --input, another "
            "--output, or --relabel if the corpus has moved"
        )
    _check_recipe(record, recipe)


def _check_recipe(record: Record, recipe: dict[str, Any]) -> None:
    for key in sorted(recipe.keys() | record.recipe.keys()):
        before, now = record.recipe.get(key), recipe.get(key)
        if before != now:
            raise InputError(
                f"the output was labelled with {key} {before}, this run has {now}; "
                "pass --relabel to label everything again, or another --output"
            )


def _count_rows(shard: Shard, columns: InputColumns) -> int | ShardError:
    if shard.problem is not None:
        return ShardError(shard.problem)
    try:
        return read_patiently(Patience(), columns.check, shard)
    except ShardError as error:
        return error


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
    if rows == 0:
        return [] if done else [Slice(shard, 0, 0, 0)]
    slices = []
    start = 0
    for record in done:  # in order, as _disjoint leaves them
        slices += _cut(shard, rows, start, record.first_row, slice_rows)
        start = record.first_row + record.rows
    return slices + _cut(shard, rows, start, rows, slice_rows)


def _cut(shard: Shard, rows: int, start: int, stop: int, slice_rows: int) -> list[Slice]:
    return [
        Slice(shard, rows, first, min(slice_rows, stop - first))
        for first in range(start, stop, slice_rows)
    ]
