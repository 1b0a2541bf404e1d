"""`stats/<run id>.parquet`: the costs of a run's slices, in a form that SQL can sum."""

from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.output.sets import Sets
from pipelines.output.statistics import PER_ERRORS, PER_EXIT, PER_SLICE, arrow

#: The columns of `stats/`.
STATISTICS = pa.schema(
    [
        ("run_id", pa.string()),
        ("slice_id", pa.string()),
        ("shard", pa.string()),
        ("first_row", pa.int64()),
        ("exit_layer", pa.int8()),  # depth; null: rows with an error
        ("slice_rows", pa.int64()),
        ("committed_at", pa.string()),
        *((m.column, arrow(m.kind)) for m in PER_SLICE + PER_ERRORS),
        *((m.column, arrow(get_args(m.kind)[0])) for m in PER_EXIT),
    ]
)
#: The same as `record.slice_id`.
SLICE_ID = "left(sha256(shard || chr(0) || first_row::varchar), 32)"
_COMMON = f"""
    run_id, {SLICE_ID} as slice_id, shard, first_row, rows as slice_rows, committed_at,
    {", ".join(f"{m.name} as {m.column}" for m in PER_SLICE)}
"""
_ROWS = f"""
    select {_COMMON}, coalesce(exit_depths[place], place) as exit_layer,
           {", ".join(f"{m.name}[place] as {m.column}" for m in PER_EXIT)}
    from (select *, unnest(range(1, len(exits) + 1)) as place from records)
    union all by name
    select {_COMMON}, error_rows as rows, 0 as tokens, 0 as flops,
           {", ".join(f"{m.name} as {m.column}" for m in PER_ERRORS)}
    from records where error_rows > 0
    order by shard, first_row, exit_layer nulls last
"""


#: Slices whose statistics are made together: they are as large as the records.
_TOGETHER = 1 << 16


def encoded(records: pa.Table) -> bytes:
    """The statistics of rows of a manifest, as the content of a Parquet file."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, STATISTICS, compression="zstd") as writer:
        for first in range(0, max(len(records), 1), _TOGETHER):
            writer.write_table(statistics(records.slice(first, _TOGETHER)))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def statistics(records: pa.Table) -> pa.Table:
    """From rows of a manifest: one row per slice and exit, and one for a slice's rows with errors.

    `rows`, `tokens` and `flops` can be summed; columns that begin with `slice_` repeat in each row
    of their slice.
    """
    with Sets(records=records) as sets:
        return sets.table(_ROWS).select(STATISTICS.names).cast(STATISTICS)
