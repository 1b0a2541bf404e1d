"""The summary of a run: what jobs print, `ledger/runs/` keeps and the view `runs` shows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

import pyarrow as pa

from pipelines.output.ledger import Record
from pipelines.output.statistics import TOTALS, arrow

#: What follows from a run's sums, by the sum that it stands behind.
_DERIVED = {"labels": "mean_exit_layer", "full_flops": "flops_speedup"}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One run. Its fields are the columns of `runs`, null where a summary is of an earlier version;
    what has a default is left out where it is not known."""

    run_id: str
    output: str
    model: str
    checkpoint: str  # fingerprint
    operating_point: str
    criterion: str
    thresholds: list[float]
    shards: int
    slices_up_to_date: int
    slices_removed: int
    totals: dict[str, Any]  # by `totals`; each a column of its own
    bad_shards: dict[str, str]  # by URL: why they are not labelled
    audit_agreement: float | None
    audit_interval: list[float] | None
    promised_agreement: float | None = None
    exit_drift: float | None = None
    exit_drift_p: float | None = None
    alarms: list[str]
    started_at: str  # UTC, ISO 8601
    seconds: float
    price: float | None = None
    price_per_million_rows: float | None = None
    exit_code: int

    def as_json(self) -> dict[str, Any]:
        """Keys and values as they are printed and kept."""
        known = vars(self) | self.totals
        unknown = {f.name for f in fields(self) if f.default is None and known[f.name] is None}
        return {name: known[name] for name in RUNS.names if name not in unknown}


def _columns() -> Iterator[tuple[str, pa.DataType]]:
    for name, kind in get_type_hints(Summary).items():
        if name != "totals":
            optional = type(None) in get_args(kind)
            yield name, arrow(get_args(kind)[0] if optional else kind)
            continue
        yield from (("slices_labelled", pa.int64()), ("rows", pa.int64()))
        for measure in TOTALS:
            yield str(measure.total), arrow(measure.total_kind, summed=True)
            if measure.total in _DERIVED:
                yield _DERIVED[measure.total], pa.float64()


#: The columns of `runs`, and the order of a summary's keys.
RUNS = pa.schema(list(_columns()))


def totals(records: Sequence[Record]) -> dict[str, Any]:
    """What a run has done, added up."""
    sums = {str(measure.total): measure.sum(records) for measure in TOTALS}
    depths = records[0].depths if records else []
    left, flops = sum(sums["exits"]), sums["flops"]
    layers = sum(depth * rows for depth, rows in zip(depths, sums["exits"], strict=True))
    return {
        "slices_labelled": len(records),
        "rows": sum(record.rows for record in records),
        **{name: round(sum, 2) if isinstance(sum, float) else sum for name, sum in sums.items()},
        "mean_exit_layer": round(layers / left, 4) if left else None,
        "flops_speedup": round(sums["full_flops"] / flops, 3) if flops else None,
    }


def prices(records: Sequence[Record], per_hour: float) -> dict[str, Any]:
    """What the replicas' time has cost, in the currency of `per_hour`."""
    price = sum(r.device_seconds for r in records) / 3600 * per_hour
    rows = sum(r.rows for r in records)
    return {
        "price": round(price, 6),
        "price_per_million_rows": round(1e6 * price / rows, 4) if rows else None,
    }
