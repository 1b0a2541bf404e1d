"""Records of slices that nobody has labelled, and the shortest recipe."""

from pipelines.output.ledger import Record

#: The least that a commit wants to know of a recipe.
RECIPE = {"checkpoint": "", "criterion": "entropy", "thresholds": []}


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
        recipe={"checkpoint": "x"},
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
