"""Adoption: labelled rows whose record is lost are kept if this run would write the same rows.

Runs killed between rows and record leave such files, and so does a restore of `table/` without
`ledger/`. A file has the content of its record as metadata (`Ledger.described`).
"""

from collections import defaultdict
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from fastbert.filesystem import redacted
from pipelines.input.shards import Shard
from pipelines.output.committed import Committed, commits_of
from pipelines.output.identity import Identity
from pipelines.output.ledger import Ledger


def adopt(
    ledger: Ledger, output: Committed, shards: list[Shard], identity: Identity, run_id: str
) -> Committed:
    """The output's content, with commits by this run of files without a record that fit shard and
    identity, and overlap no record; `stray` still has these files. Nothing is written; only files
    of `shards` are read."""
    known = {shard.name: shard for shard in shards}
    found = ledger.described([path for path, name in output.stray.items() if name in known], run_id)
    precision = output.precision(identity)
    names = pa.array({record.shard for record in found}, pa.string())
    commits = output.commits.select(["shard", "first_row", "rows"])
    vouched = defaultdict(list)
    for commit in commits.filter(pc.is_in(commits["shard"], names)).to_pylist():
        first = commit["first_row"]
        vouched[commit["shard"]].append(range(first, first + commit["rows"]))
    fitting = [
        record
        for record in found
        if known[record.shard].has_version(record.version)
        and record.source == redacted(known[record.shard].url)
        and not identity.differences(record.recipe)
        # A killed run should have replaced it: a slice that was given up, or another precision.
        and not record.model_errors
        and precision in (record.precision, None)
        and all(
            record.first_row + record.rows <= rows.start or rows.stop <= record.first_row
            for rows in vouched[record.shard]
        )
    ]
    if not fitting:
        return output
    return replace(
        output,
        commits=pa.concat_tables([output.commits, commits_of(fitting)]),
        adopted={record.path: record for record in fitting},
    )
