"""The ledger: one JSON record per committed slice, one summary per run.

A slice counts as done if and only if its record exists and matches shard version and recipe.
Records carry what each slice cost, so statistics can be rebuilt from them at any time.
"""

import hashlib
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
import pyarrow as pa

from fastbert.filesystem import redacted
from pipelines.output.identity import Identity
from pipelines.output.statistics import (
    MEASURES,
    PER_ERRORS,
    PER_EXIT,
    PER_SLICE,
    Count,
    Seconds,
    SliceStats,
    Text,
    arrow,
    of_the_model,
)
from pipelines.output.storage import FOOTER_THREADS, Storage, to_parquet

log = logging.getLogger(__name__)


def slice_id(shard: str, first_row: int) -> str:
    """The name of a slice: from what it is, never from who computed it."""
    return hashlib.sha256(f"{shard}\0{first_row}".encode()).hexdigest()[:32]


def table_path(shard: str, first_row: int) -> str:
    """Where the labelled rows of a slice are, below the output root."""
    return f"table/{shard}.{first_row:012d}.parquet"


def record_path(shard: str, first_row: int) -> str:
    """Where the record of a slice is."""
    return f"ledger/slices/{slice_id(shard, first_row)}.json"


def slice_of(path: str) -> tuple[str, int] | None:
    """Inverse of `table_path`: shard and first row; None for a file that is not ours."""
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


#: What two attempts at a slice differ in. All else stands in its file, too.
_OF_ATTEMPT = {m.name for m in MEASURES if m.kind == Seconds}
_OF_ATTEMPT |= {"run_id", "committed_at", "retries"}
#: Where it stands there, among the key-value metadata.
_RECORD = "fastbert.record"


def facts(record: Record) -> dict[str, str]:
    """What a file of labelled rows says of itself, so that its record can be written again."""
    values = {name: value for name, value in asdict(record).items() if name not in _OF_ATTEMPT}
    return {_RECORD: json.dumps(values)}


def _readable(texts: dict[str, bytes], more: dict[str, Any] | None = None) -> list[Record]:
    """The records of these texts, by path, and `more` of each; those that are none are left out."""
    records = []
    for path, text in texts.items():
        try:
            records.append(_decoded(path, text, more or {}))
        except (ValueError, RecursionError) as error:
            log.warning("ignoring the unreadable record of %s: %s", redacted(path), error)
    return records


def _decoded(path: str, text: bytes, more: dict[str, Any]) -> Record:
    """A record as `Ledger.put` writes it, and `more` of it; ValueError for all that is not one.
    Much depends on what it says: which rows are done, and which files may be removed."""
    values = msgspec.convert(json.loads(text), dict[str, Any]) | more
    record = msgspec.convert(values, Record)
    if missing := {m.name for m in MEASURES if m.required} - values.keys():
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    if "model_errors" not in values:  # of an earlier release; some have no reasons either
        failed = of_the_model(record.errors) or record.error_rows * record.quarantined
        record = replace(record, model_errors=failed)
    if record.path != table_path(record.shard, record.first_row):
        raise ValueError(f"its path is {record.path}, which is not its shard's")
    if record.first_row + record.rows > record.shard_rows:
        raise ValueError(f"its rows end behind those of the shard, {record.shard_rows}")
    exits = len(record.exits)
    for measure in PER_EXIT:
        counts = len(getattr(record, measure.name))
        if counts != exits and (counts or measure.required):
            raise ValueError(f"its {measure.name} are of {counts} exits, expected {exits}")
    depths = record.depths
    if len(depths) != exits or depths != sorted(depths) or any(k > 127 for k in depths):
        raise ValueError(f"its exits lie at {depths}, expected {exits} depths, rising to 127")
    if {"", ".", ".."} & {*record.shard.split("/"), *record.run_id.split("/")}:
        raise ValueError("its shard or run would lie elsewhere")
    if path not in (record.path, record_path(record.shard, record.first_row)):
        raise ValueError(f"it is the record of {record.path}")
    return record


@dataclass(frozen=True)
class Committed:
    """What an output holds."""

    records: list[Record]
    #: Files of labelled rows that no record in the ledger vouches for: their shards, by path.
    stray: dict[str, str]

    def precision(self, identity: Identity) -> str | None:
        """What the last commit with this identity was made in; None if there is none."""
        same = [r for r in self.records if identity.difference(r.recipe) is None]
        return max(same, key=lambda r: r.committed_at).precision if same else None


class Ledger:
    """Records and summaries of one output."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def put(self, record: Record) -> None:
        """Commit a slice: its labelled rows are published already."""
        data = json.dumps(asdict(record), indent=1).encode()
        self.storage.put(record_path(record.shard, record.first_row), data)

    def committed(self) -> "Committed":
        """All commits whose labelled rows are there; unreadable records count as absent."""
        data = self.storage.paths("table", ".parquet")
        paths = self.storage.paths("ledger/slices", ".json")
        found = _readable(self.storage.read(sorted(paths)))
        records = [record for record in found if record.path in data]
        stray = {}
        for path in sorted(data - {record.path for record in records}):
            if place := slice_of(path):
                stray[path] = place[0]
            else:
                log.warning("not written by this job, and left alone: %s", redacted(path))
        return Committed(records, stray)

    def described(self, paths: list[str], run_id: str) -> list[Record]:
        """The commits of files without a record, as they themselves tell, made by this run now and
        at no cost. Files that do not tell, as those of earlier versions, have none."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        unknown = dict.fromkeys(_OF_ATTEMPT, 0) | {"run_id": run_id, "committed_at": now}
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            footers = zip(paths, pool.map(self.storage.footer, paths), strict=True)
            known = {path: footer for path, footer in footers if footer is not None}
        told = {path: (known[path].metadata or {}).get(_RECORD.encode()) for path in known}
        found = _readable({path: text for path, text in told.items() if text}, unknown)
        return [record for record in found if known[record.path].num_rows == record.rows]

    def adopt(self, records: list[Record]) -> None:
        """Write the records of files that have lost theirs."""
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            for record, _ in zip(records, pool.map(self.put, records), strict=True):
                log.info("%s had no record, and has one again", record.path)

    def records(self, paths: list[str]) -> list[Record]:
        """The commits of files of labelled rows; those that are not ours, or no record vouches for,
        have none."""
        places = {record_path(*place) for path in paths if (place := slice_of(path))}
        return _readable(self.storage.read(sorted(places)))

    def sweep(self, paths: list[str]) -> None:
        """Remove files of labelled rows that no record vouches for."""
        for path in paths:
            log.info("removing %s, which has no record", path)
            self.storage.remove(path)

    def withdraw(self, record: Record) -> None:
        """Take back a commit; its rows stay until they are written over."""
        self.storage.remove(record_path(record.shard, record.first_row))

    def forget(self, record: Record) -> None:
        """Remove a slice: the record first, so that it never promises rows that are gone."""
        self.withdraw(record)
        self.storage.remove(record.path)

    def unreported(self, records: list[Record]) -> set[str]:
        """The ids of runs with such records that were killed before they wrote their statistics."""
        written = self.storage.paths("stats", ".parquet")
        runs = {record.run_id for record in records}
        return {run for run in runs if f"stats/{run}.parquet" not in written}

    def reopen(self, run_id: str) -> None:
        """A name that was used before: without the statistics of its first run, those of this one
        are missed, and written, if it is killed."""
        self.storage.remove(f"stats/{run_id}.parquet")

    def close_run(
        self, run_id: str, summary: dict[str, Any], records: list[Record], killed: set[str]
    ) -> None:
        """Write a run's summary, and the statistics of it and of the runs `killed`.

        `records` are the ledger's, so that nothing is read again at the end of a large run.
        """
        by_run: dict[str, list[Record]] = {run: [] for run in {run_id, *killed}}
        for record in records:
            if record.run_id in by_run:  # this run's may be older: ids can be used again
                by_run[record.run_id].append(record)
        for run, mine in by_run.items():
            self.storage.put(f"stats/{run}.parquet", to_parquet(statistics(mine)))
        text = json.dumps(summary, indent=1, ensure_ascii=False)
        self.storage.put(f"ledger/runs/{run_id}.json", text.encode())


#: What statistics tell of a record under the same name.
_OF_RECORD = ("run_id", "slice_id", "shard", "first_row", "committed_at")
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


def statistics(records: list[Record]) -> pa.Table:
    """One row per slice and exit, and one for a slice's rows with errors.

    `rows`, `tokens` and `flops` add up; columns that begin with `slice_` repeat on each row of
    their slice.
    """
    rows = []
    for record in sorted(records, key=lambda r: (r.shard, r.first_row)):
        common: dict[str | None, Any] = {m.column: getattr(record, m.name) for m in PER_SLICE}
        common |= {name: getattr(record, name) for name in _OF_RECORD}
        common |= {"slice_rows": record.rows}
        known = {m.column: values for m in PER_EXIT if (values := getattr(record, m.name))}
        for place, depth in enumerate(record.depths):
            counts = {name: values[place] for name, values in known.items()}
            rows.append(common | counts | {"exit_layer": depth})
        if record.error_rows:
            counts = {m.column: getattr(record, m.name) for m in PER_ERRORS}
            rows.append(common | counts | {"rows": record.error_rows, "tokens": 0, "flops": 0})
    return pa.Table.from_pylist(rows, schema=STATISTICS)
