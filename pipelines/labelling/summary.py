"""The summary of a run: printed by jobs, stored in `ledger/runs/`, shown in the view `runs`."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipelines.output.manifests import SCHEMA, rows_of
from pipelines.output.record import Record
from pipelines.output.statistics import TOTALS, arrow


def _totals() -> Iterator[tuple[str, pa.DataType]]:
    """A column for each sum, followed by those derived from it."""
    derived = {"labels": "mean_exit_layer", "full_flops": "flops_speedup"}
    for measure in TOTALS:
        yield measure.total, arrow(measure.summed, summed=True)
        if measure.total in derived:
            yield derived[measure.total], pa.float64()


_TEXT, _INTEGER, _NUMBER = pa.string(), pa.int64(), pa.float64()
#: Of one question.
_AUDIT = pa.struct(
    [
        ("question", _TEXT),
        ("audit_agreement", _NUMBER),
        ("audit_interval", pa.list_(_NUMBER)),
        ("promised_agreement", _NUMBER),
        ("exit_drift", _NUMBER),
        ("exit_drift_p", _NUMBER),
    ]
)
#: The columns of `runs`, in the order of a summary's keys. Null, or left out, if unknown, or in
#: summaries of earlier releases.
RUNS = pa.schema(
    [
        ("run_id", _TEXT),
        ("output", _TEXT),
        ("model", _TEXT),
        ("checkpoint", _TEXT),  # fingerprint
        ("operating_point", _TEXT),
        ("criterion", _TEXT),
        ("thresholds", pa.list_(_NUMBER)),
        ("temperatures", pa.list_(_NUMBER)),
        ("within", pa.list_(_NUMBER)),
        ("questions", _TEXT),  # for several questions: the same for each, as JSON
        ("shards", _INTEGER),
        ("passed_over", _INTEGER),  # files below the input that are no shards
        ("slices_up_to_date", _INTEGER),
        ("slices_adopted", _INTEGER),  # of those up to date: their record was lost
        ("slices_removed", _INTEGER),
        ("leftovers_removed", _INTEGER),  # files without a record
        ("leftovers", _INTEGER),  # those that stay
        ("slices_labelled", _INTEGER),
        ("rows", _INTEGER),
        *_totals(),
        ("bad_shards", pa.map_(_TEXT, _TEXT)),  # by URL: why they are not labelled
        ("audit_agreement", _NUMBER),
        ("audit_interval", pa.list_(_NUMBER)),
        ("promised_agreement", _NUMBER),
        ("question_audits", pa.list_(_AUDIT)),  # where several questions are asked
        ("exit_drift", _NUMBER),
        ("exit_drift_p", _NUMBER),
        ("alarms", pa.list_(_TEXT)),
        ("started_at", _TEXT),  # UTC, ISO 8601
        ("seconds", _NUMBER),
        ("startup_seconds", _NUMBER),  # before the first slice was begun
        ("max_bad_rows", _NUMBER),  # share of rows with an error above which the exit code is 3
        ("price", _NUMBER),
        ("price_per_million_rows", _NUMBER),
        ("exit_code", _INTEGER),
    ]
)


#: Records that become rows together.
_TOGETHER = 1000


class Tally:
    """What a run has committed: added up, and as rows of a manifest. A record as an object takes
    ten kilobytes, and a run may commit a million."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.slices = self.rows = self.audit_agreements = 0
        #: Of the slice that was committed first.
        self.first: Record | None = None
        self._waiting: list[Record] = []
        self._sums: list[dict[str, Any]] = []
        self._tables = [SCHEMA.empty_table()]
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """A slice is committed."""
        self.slices += 1
        self.rows += record.rows
        self.audit_agreements += record.audit_agreements
        if self.first is None or record.committed_at < self.first.committed_at:
            self.first = record
        self._waiting.append(record)
        if len(self._waiting) >= _TOGETHER:
            self._settle()

    def _settle(self) -> None:
        some, self._waiting = self._waiting, []
        if some:
            self._sums.append({measure.total: measure.sum(some) for measure in TOTALS})
            self._tables.append(rows_of(some))

    def sums(self) -> dict[str, Any]:
        """Of all slices, by the name of the total."""
        self._settle()
        return {m.total: m.together([some[m.total] for some in self._sums]) for m in TOTALS}

    def table(self) -> pa.Table:
        """Its records, as rows of a manifest."""
        self._settle()
        return pa.concat_tables(self._tables)


def totals(done: Tally) -> dict[str, Any]:
    """What a run has done, added up."""
    sums = done.sums()
    depths = done.first.depths if done.first else []
    left, flops = sum(sums["exits"]), sums["flops"]
    layers = sum(depth * rows for depth, rows in zip(depths, sums["exits"], strict=True))
    return {
        "slices_labelled": done.slices,
        "rows": done.rows,
        **{name: round(sum, 2) if isinstance(sum, float) else sum for name, sum in sums.items()},
        "mean_exit_layer": round(layers / left, 4) if left else None,
        "flops_speedup": round(sums["full_flops"] / flops, 3) if flops else None,
    }


def prices(done: Tally, per_hour: float | None) -> dict[str, Any]:
    """What the replicas' time has cost, in the currency of `per_hour`, if that is known."""
    if per_hour is None:
        return {}
    price = done.sums()["device_seconds"] / 3600 * per_hour
    per_million = {"price_per_million_rows": round(1e6 * price / done.rows, 4)} if done.rows else {}
    return {"price": round(price, 6)} | per_million


def startup(done: Tally, started_at: datetime) -> float | None:
    """Seconds from the start of a run until the first slice was begun; None without one."""
    if (first := done.first) is None:
        return None
    took = (datetime.fromisoformat(first.committed_at) - started_at).total_seconds()
    seconds = (first.read_seconds, first.tokenize_seconds, first.device_seconds,
               first.commit_seconds)  # fmt: skip
    return round(max(0.0, took - sum(seconds)), 1)  # clocks of nodes may differ
