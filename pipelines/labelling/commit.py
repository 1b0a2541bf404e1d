"""Third stage, on CPUs: publish a slice's rows, then its record."""

import io
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

import fastbert
from fastbert.filesystem import shown
from pipelines.labelling.work import Work
from pipelines.output.ledger import Ledger, Record
from pipelines.output.lock import OutputHeld, holds
from pipelines.output.schema import SCHEMA_VERSION
from pipelines.output.storage import Storage


@dataclass(frozen=True)
class Commit:
    """Writes to one output on behalf of one run."""

    output: str
    run_id: str
    recipe: dict[str, Any]
    #: For the lineage: the name of what `recipe` holds as thresholds.
    operating_point: str
    #: The run's token in the output's lock; without, the lock is not looked at.
    lock: str | None = None

    def __call__(self, work: Work) -> Record | None:
        """Commit a labelled slice; None if there is nothing to commit.

        Data before record: a crash in between costs a recomputation, which publishes the same
        rows under the same name. Raises OutputHeld, and writes nothing, if the run has lost the
        output to another one.
        """
        if work.table is None or work.measured is None:
            return None
        started = time.monotonic()
        piece = work.slice
        table = work.table.replace_schema_metadata(self._lineage(work))
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        storage = Storage(self.output)
        if self.lock and not holds(storage, self.lock):
            raise OutputHeld("another run has taken over the output")
        storage.put(piece.path, buffer.getvalue())
        record = Record(
            run_id=self.run_id,
            shard=piece.shard.name,
            source=shown(piece.shard.url),
            version=piece.shard.version,
            shard_rows=piece.shard_rows,
            first_row=piece.first_row,
            rows=piece.rows,
            path=piece.path,
            recipe=self.recipe,
            commit_seconds=time.monotonic() - started,
            committed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            **work.measured | {"retries": work.measured["retries"] + storage.patience.retries},
        )
        Ledger(storage).put(record)
        return record

    def _lineage(self, work: Work) -> dict[str, str]:
        """Parquet key-value metadata. Nothing here differs between two attempts at a slice."""
        piece, measured = work.slice, work.measured or {}
        facts = {
            "source": shown(piece.shard.url),
            "source_version": piece.shard.version,
            "first_row": piece.first_row,
            "rows": piece.rows,
            "checkpoint": self.recipe["checkpoint"],
            "operating_point": self.operating_point,
            "criterion": self.recipe["criterion"],
            "thresholds": json.dumps(self.recipe["thresholds"]),
            "device": measured["device"],
            "precision": measured["precision"],
            "code_version": fastbert.__version__,
            "schema_version": SCHEMA_VERSION,
        }
        return {f"fastbert.{key}": str(value) for key, value in facts.items()}
