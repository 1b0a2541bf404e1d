"""An output that looks like many nights of labelling, without a model: ledger and statistics are
real, files of labelled rows are empty."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from fastbert.exits.operating_point import Evidence, OperatingPoint, Promise
from pipelines.labelling.audit import audit
from pipelines.labelling.summary import Tally, prices, totals
from pipelines.output.committed import COMMITS
from pipelines.output.ledger import Ledger
from pipelines.output.record import Record, table_path
from pipelines.output.statistics import UNCERTAINTY_BINS
from pipelines.output.storage import Storage

ROWS = 1000
LABELS = ["billing", "delivery", "account", "product & <b>parts</b>", "$price$"]
USUAL, DRIFTED = [0.7, 0.1, 0.05, 0.05, 0.05, 0.05], [0.3, 0.1, 0.1, 0.1, 0.1, 0.3]
POINT = OperatingPoint(
    "max-disagreement-0.01",
    [0.4] * 5,
    promise=Promise(0.01, 0.95),
    evidence=Evidence(5000, 20, 0.01, [3500, 500, 250, 250, 250, 250], 4.0, "", "fp32", ""),
)


def write_history(root: Path, nights: int, slices: int) -> None:
    """`nights` runs of `slices` slices; the last fifth of them has drifted, the third has a shard
    that cannot be read, and the fourth was killed: it has no summary."""
    ledger, random = Ledger(Storage(str(root))), np.random.default_rng(0)
    for night in range(nights):
        at = datetime(2026, 1, 1, 2, tzinfo=UTC) + timedelta(days=night)
        drifted = night >= nights - nights // 5
        records = [a_record(f"night-{night:03d}", at, i, drifted, random) for i in range(slices)]
        for record in records:
            path = root / record.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        done = Tally(records)
        summary = {
            "run_id": f"night-{night:03d}",
            "started_at": at.isoformat(timespec="milliseconds"),
            "seconds": 600.0,
            "checkpoint": "0" * 64 if night < nights // 2 else "1" * 64,
            "operating_point": POINT.name,
            "bad_shards": {"s3://in/broken.parquet": "is not Parquet"} if night == 2 else {},
            "exit_code": 3 if night == 2 else 0,
        }
        summary |= totals(done) | prices(done, 2.5)
        summary |= audit(POINT, summary["exits"], summary["audit_rows"], done.audit_agreements)
        ledger.close_run(summary["run_id"], summary, COMMITS.empty_table(), done.table(), set())
        ledger.fold(done.table())
        if night == 3:
            ledger.storage.remove(f"ledger/runs/{summary['run_id']}.json")


def a_record(
    run: str, at: datetime, number: int, drifted: bool, random: np.random.Generator
) -> Record:
    """A slice as the job might have recorded it."""
    shard = f"dt={at:%Y-%m-%d}/part-{number:05d}"
    exits = random.multinomial(ROWS - 1, DRIFTED if drifted else USUAL)
    audits = random.binomial(exits, 0.05)
    agreements = random.binomial(audits, 0.95 if drifted else 0.997)
    counts = [random.multinomial(n, [0.4, 0.3, 0.15, 0.1, 0.05]).tolist() for n in exits]
    sure = [random.multinomial(n, _bins(layer)).tolist() for layer, n in enumerate(exits)]
    return Record(
        run_id=run,
        shard=shard,
        source=f"s3://in/{shard}.parquet",
        version="etag:1",
        shard_rows=ROWS,
        first_row=0,
        rows=ROWS,
        path=table_path(shard, 0),
        recipe={"checkpoint": "0" * 64},
        error_rows=1,
        tokens=30 * (ROWS - 1),
        exits=exits.tolist(),
        exit_tokens=(30 * exits).tolist(),
        exit_flops=[int(n * layer * 5e8) for layer, n in enumerate(exits, 1)],
        full_flops=int((ROWS - 1) * 6 * 5e8),
        audit_rows=int(audits.sum()),
        audit_agreements=int(agreements.sum()),
        audit_flops=10**9,
        read_seconds=0.1,
        tokenize_seconds=0.2,
        device_seconds=float(random.gamma(9, 0.1)),
        commit_seconds=0.1,
        device="cpu",
        precision="fp32",
        committed_at=(at + timedelta(seconds=number)).isoformat(timespec="milliseconds"),
        exit_labels=[dict(zip(LABELS, some, strict=True)) for some in counts],
        exit_uncertainties=sure,
        exit_audit_rows=audits.tolist(),
        exit_audit_agreements=agreements.tolist(),
        errors={"text is null": 1},
    )


def _bins(layer: int) -> list[float]:
    """Uncertainties below 0.4, but of the last layer."""
    return [1 / UNCERTAINTY_BINS] * UNCERTAINTY_BINS if layer == 5 else [1 / 8] * 8 + [0.0] * 12
