"""Records of slices that were never labelled, and their recipes."""

import pyarrow as pa

from pipelines.output.committed import Committed, commits_of
from pipelines.output.identity import Identity
from pipelines.output.ledger import Ledger
from pipelines.output.manifests import rows_of
from pipelines.output.record import Record, table_path


def identity(**changes) -> Identity:
    """That of a model of three layers."""
    defaults = dict(
        checkpoint="x",
        criterion="entropy",
        thresholds=[0.5, 0.5],
        exit_depths=[1, 2, 3],
        text_column="text",
        pair_column=None,
        carry=None,
        max_length=32,
    )
    return Identity(**defaults | changes)


def record(shard: str = "a", first_row: int = 0, rows: int = 10, **changes) -> Record:
    defaults = dict(
        run_id="night-1",
        shard=shard,
        source=f"file:///in/{shard}.parquet",
        version="etag:1",
        shard_rows=first_row + rows,
        first_row=first_row,
        rows=rows,
        path=f"table/{shard}.{first_row:012d}.parquet",
        recipe=identity().recipe,
        error_rows=1,
        tokens=90,
        exits=[5, 3, 1],
        exit_tokens=[50, 30, 10],
        exit_flops=[500, 600, 300],
        full_flops=2700,
        audit_rows=2,
        audit_agreements=1,
        audit_flops=7,
        read_seconds=0.1,
        tokenize_seconds=0.2,
        device_seconds=0.3,
        commit_seconds=0.4,
        device="cpu",
        precision="fp32",
        committed_at="2026-11-22T01:02:03+00:00",
    )
    return Record(**defaults | changes)


def committed(ledger: Ledger) -> list[Record]:
    """All that the ledger holds, as records, in the order of shards and rows."""
    found = ledger.records(ledger.committed().commits)
    return sorted(found, key=lambda r: (r.shard, r.first_row))


def holding(records, stray=None) -> Committed:
    """What an output holds that has these records; `stray` are files, some of which tell theirs."""
    stray = stray or {}
    told = [each for each in records if each.path in stray]
    known = [each for each in records if each.path not in stray]
    return Committed(commits_of(known + told), stray, {each.path: each for each in told})


def places(commits: pa.Table) -> list[tuple[str, int]]:
    """Shard and first row of each commit."""
    return [(each["shard"], each["first_row"]) for each in commits.to_pylist()]


def end_run(ledger: Ledger, run_id: str, records=(), summary=None) -> None:
    """End a run that has committed these, and whatever else of it the ledger has."""
    commits = ledger.committed().commits
    killed = ledger.unreported(commits)
    new = {each.path: each for each in records}
    rest = commits.filter(pa.array([path not in new for path in paths(commits)], pa.bool_()))
    ledger.close_run(run_id, summary or {}, rest, rows_of(records), killed)
    ledger.fold(rows_of(records))


def paths(commits: pa.Table) -> list[str]:
    """Their files."""
    return [table_path(*place) for place in places(commits)]
