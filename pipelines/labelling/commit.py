"""Third stage, on CPUs: publish a slice's rows, then its record."""

import json
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import fastbert
from fastbert.filesystem import redacted
from pipelines.labelling.run import Run
from pipelines.labelling.work import Work
from pipelines.output.lock import check_held
from pipelines.output.record import Record, facts, put
from pipelines.output.storage import Storage, to_parquet


@dataclass(frozen=True)
class Commit:
    """Writes to the output for a run."""

    run: Run

    def __call__(self, work: Work) -> Record:
        """Commit a labelled slice.

        Rows come before the record: a crash in between costs a recomputation, which publishes the
        same rows under the same name. Raises LockLost, and writes nothing, if the run has lost the
        output; raises the errors of `Storage`.
        """
        started = time.monotonic()
        piece, run = work.slice, self.run
        storage = Storage(run.output)
        if run.lock:
            check_held(storage, run.lock)
        record = Record(
            **vars(work.stats),
            run_id=run.run_id,
            shard=piece.shard.name,
            source=redacted(piece.shard.url),
            version=piece.shard.version,
            shard_rows=piece.shard_rows,
            first_row=piece.first_row,
            rows=piece.rows,
            path=piece.path,
            recipe=run.identity.recipe,
            committed_at="",
        )
        known = work.table.schema.metadata or {}
        rows = work.table.replace_schema_metadata(known | self._lineage(work))
        storage.put(piece.path, to_parquet(rows, facts(record)))
        record = replace(
            record,
            retries=work.stats.retries + storage.patience.retries,
            commit_seconds=time.monotonic() - started,
            committed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        put(storage, record)
        return record

    def _lineage(self, work: Work) -> dict[str, str]:
        """Parquet key-value metadata. Nothing here differs between two attempts at a slice."""
        piece, identity = work.slice, self.run.identity
        lineage = {
            "source": redacted(piece.shard.url),
            "source_version": piece.shard.version,
            "first_row": piece.first_row,
            "rows": piece.rows,
            "checkpoint": identity.checkpoint,
            "operating_point": self.run.operating_point,
            "criterion": identity.criterion,
            "thresholds": json.dumps(identity.thresholds),
            "temperatures": json.dumps(identity.temperatures),
            "device": work.stats.device,
            "precision": work.stats.precision,
            "code_version": fastbert.__version__,
            "schema_version": identity.schema_version,
        }
        return {f"fastbert.{key}": str(value) for key, value in lineage.items()}
