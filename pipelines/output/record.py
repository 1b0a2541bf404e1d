"""The record of one slice: its content and cost, and checks when it is read."""

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from fastbert.filesystem import redacted
from pipelines.output.statistics import (
    MEASURES,
    PER_EXIT,
    Count,
    Seconds,
    SliceStats,
    Text,
    of_the_model,
)
from pipelines.output.storage import Storage

log = logging.getLogger(__name__)


def slice_id(shard: str, first_row: int) -> str:
    """The name of a slice, which depends only on its rows, not on the process."""
    return hashlib.sha256(f"{shard}\0{first_row}".encode()).hexdigest()[:32]


def table_path(shard: str, first_row: int) -> str:
    """Path of the labelled rows of a slice, below the output root."""
    return f"table/{shard}.{first_row:012d}.parquet"


def record_path(shard: str, first_row: int) -> str:
    """Path of the record of a slice."""
    return f"ledger/slices/{slice_id(shard, first_row)}.json"


def slice_of(path: str) -> tuple[str, int] | None:
    """Inverse of `table_path`: shard and first row; None for a file of other software."""
    found = re.fullmatch(r"table/([^\ud800-\udfff]+)\.([0-9]{12,})\.parquet", path)
    return (found[1], int(found[2])) if found else None


@dataclass(frozen=True, kw_only=True)
class Record(SliceStats):
    """The commit of one slice."""

    run_id: Text
    shard: Text  # path below the input root, without .parquet
    source: Text  # URL of the shard
    version: Text  # of the shard when it was read
    shard_rows: Count
    first_row: Count
    rows: Count
    path: Text  # of the labelled rows, below the output root
    recipe: dict[str, Any]  # see `Identity`
    committed_at: Text  # UTC, ISO 8601

    @property
    def slice_id(self) -> str:
        """The name of its slice."""
        return slice_id(self.shard, self.first_row)


#: Fields that differ between two attempts at a slice. All others are also in its file.
OF_ATTEMPT = {m.name for m in MEASURES if m.kind == Seconds}
OF_ATTEMPT |= {"run_id", "committed_at", "retries"}
#: Their key there, in the key-value metadata.
FACTS = "fastbert.record"


def facts(record: Record) -> dict[str, str]:
    """Metadata for a file of labelled rows, from which its record can be restored."""
    values = {name: value for name, value in asdict(record).items() if name not in OF_ATTEMPT}
    return {FACTS: json.dumps(values)}


def readable(texts: dict[str, bytes], more: dict[str, Any] | None = None) -> list[Record]:
    """Records from these texts, by path, with fields from `more`; invalid ones are left out."""
    records = []
    for path, text in texts.items():
        try:
            records.append(_decoded(path, text, more or {}))
        except (ValueError, RecursionError) as error:
            log.warning("ignoring the unreadable record of %s: %s", redacted(path), error)
    return records


def _decoded(path: str, text: bytes, more: dict[str, Any]) -> Record:
    """A record as `Ledger.put` writes it, with fields from `more`; raises ValueError for anything
    invalid, because a record decides which rows are done, and which files may be removed."""
    values = msgspec.convert(json.loads(text), dict[str, Any]) | more
    record = msgspec.convert(values, Record)
    if missing := {m.name for m in MEASURES if m.required} - values.keys():
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    if "model_errors" not in values:  # of an earlier release; a few also lack reasons
        failed = of_the_model(record.errors) or record.error_rows * record.quarantined
        record = replace(record, model_errors=failed)
    if record.path != table_path(record.shard, record.first_row):
        raise ValueError(f"its path is {record.path}, which is not its shard's")
    if record.first_row + record.rows > record.shard_rows:
        raise ValueError(f"its rows end after those of the shard, {record.shard_rows}")
    exits = len(record.exits)
    for measure in PER_EXIT:
        counts = len(getattr(record, measure.name))
        if counts != exits and (counts or measure.required):
            raise ValueError(f"its {measure.name} are for {counts} exits, expected {exits}")
    depths = record.depths
    if len(depths) != exits or depths != sorted(depths) or any(k > 127 for k in depths):
        raise ValueError(f"its exits lie at {depths}, expected {exits} rising depths up to 127")
    if {"", ".", ".."} & {*record.shard.split("/"), *record.run_id.split("/")}:
        raise ValueError("its shard or run would lie outside the output")
    if path not in (record.path, record_path(record.shard, record.first_row)):
        raise ValueError(f"it is the record of {record.path}")
    return record


def put(storage: Storage, record: Record) -> None:
    """Commit a slice: its labelled rows are published already."""
    data = json.dumps(asdict(record), indent=1).encode()
    storage.put(record_path(record.shard, record.first_row), data)
