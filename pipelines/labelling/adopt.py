"""Labelled rows whose record is lost stay where they are, if they are what this run would write.

Runs that are killed between rows and record leave such files, and so does who restores `table/`
without `ledger/`. A file says itself what its record said (`Ledger.described`).
"""

from collections import defaultdict
from dataclasses import replace
from itertools import zip_longest

from fastbert.filesystem import redacted
from pipelines.input.shards import Shard
from pipelines.output.identity import Identity
from pipelines.output.ledger import Committed, Ledger, Record


def adopt(
    ledger: Ledger, output: Committed, shards: list[Shard], identity: Identity, run_id: str
) -> Committed:
    """What the output holds, with the commits, by this run, of files without a record that fit
    shard and identity and overlap no other file. Nothing is written; only files of `shards` are
    looked at."""
    known = {shard.name: shard for shard in shards}
    found = ledger.described([path for path in output.stray if output.stray[path] in known], run_id)
    same = [r for r in output.records if identity.difference(r.recipe) is None]
    precision = max(same, key=lambda r: r.committed_at).precision if same else None
    fitting = [
        record
        for record in found
        if known[record.shard].has_version(record.version)
        and record.source == redacted(known[record.shard].url)
        and identity.difference(record.recipe) is None
        # A run was killed that should have replaced it: what was given up, another precision.
        and not record.model_errors
        and precision in (record.precision, None)
    ]
    adopted = _alone(fitting, output.records)
    paths = {record.path for record in adopted}
    stray = {path: shard for path, shard in output.stray.items() if path not in paths}
    return replace(output, adopted=adopted, stray=stray)


def _alone(found: list[Record], records: list[Record]) -> list[Record]:
    """Those of `found` that overlap none of the others, and none of `records`."""
    by_shard: dict[str, list[Record]] = defaultdict(list)
    for record in found + records:
        by_shard[record.shard].append(record)
    asked, alone = {record.path for record in found}, []
    for mine in by_shard.values():
        mine.sort(key=lambda record: record.first_row)
        end = 0  # of all before
        for record, following in zip_longest(mine, mine[1:]):
            free = end <= record.first_row
            end = max(end, record.first_row + record.rows)
            if following and following.first_row < end:
                free = False
            if free and record.path in asked:
                alone.append(record)
    return alone
