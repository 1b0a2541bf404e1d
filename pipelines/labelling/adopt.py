"""Labelled rows whose record is lost stay where they are, if they are what this run would write.

Runs that are killed between rows and record leave such files, and so does who restores `table/`
without `ledger/`. A file says itself what its record said (`Ledger.described`).
"""

from collections import defaultdict
from dataclasses import replace

from fastbert.filesystem import redacted
from pipelines.input.shards import Shard
from pipelines.output.identity import Identity
from pipelines.output.ledger import Committed, Ledger


def adopt(
    ledger: Ledger, output: Committed, shards: list[Shard], identity: Identity, run_id: str
) -> Committed:
    """What the output holds, with the commits, by this run, of files without a record that fit
    shard and identity, and overlap no record: `stray` still has these files. Nothing is written;
    only files of `shards` are looked at."""
    known = {shard.name: shard for shard in shards}
    found = ledger.described([path for path, name in output.stray.items() if name in known], run_id)
    precision = output.precision(identity)
    vouched = defaultdict(list)
    for record in output.records:
        vouched[record.shard].append(range(record.first_row, record.first_row + record.rows))
    fitting = [
        record
        for record in found
        if known[record.shard].has_version(record.version)
        and record.source == redacted(known[record.shard].url)
        and identity.difference(record.recipe) is None
        # A run was killed that should have replaced it: what was given up, another precision.
        and not record.model_errors
        and precision in (record.precision, None)
        and all(
            record.first_row + record.rows <= rows.start or rows.stop <= record.first_row
            for rows in vouched[record.shard]
        )
    ]
    return replace(output, records=output.records + fitting)
