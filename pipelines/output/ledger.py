"""The ledger: one JSON record per committed slice, one summary per run.

A slice counts as done if and only if its record exists and matches shard version and recipe.
Records carry what each slice cost, so statistics can be rebuilt from them at any time.
"""

import hashlib
import io
import json
import logging
import re
from dataclasses import asdict, dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.output.storage import Storage

log = logging.getLogger(__name__)


def slice_id(shard: str, first_row: int) -> str:
    """The name of a slice: from what it is, never from who computed it."""
    return hashlib.sha256(f"{shard}\0{first_row}".encode()).hexdigest()[:32]


def table_path(shard: str, first_row: int) -> str:
    """Where the labelled rows of a slice are, below the output root."""
    return f"table/{shard}.{first_row:012d}.parquet"


def _slice_of(path: str) -> tuple[str, int] | None:
    """Inverse of `table_path`: shard and first row; None for a file that is not ours."""
    found = re.fullmatch(r"table/(.+)\.([0-9]{12,})\.parquet", path, re.DOTALL)
    return (found[1], int(found[2])) if found else None


@dataclass(frozen=True, kw_only=True)
class Record:
    """The commit of one slice."""

    run_id: str
    shard: str  # path below the input root, without .parquet
    source: str  # URL of the shard
    version: str  # of the shard when it was read
    shard_rows: int
    first_row: int
    rows: int
    path: str  # of the labelled rows, below the output root
    recipe: dict[str, Any]
    error_rows: int
    tokens: int
    exits: list[int]  # rows that left at layer 1 .. L
    exit_tokens: list[int]  # their tokens
    exit_flops: list[int]  # what they cost
    full_flops: int  # what all of them would have cost at full depth
    audit_rows: int
    audit_agreements: int  # audited rows whose label equals full depth's
    audit_flops: int  # what the audit cost on top
    read_seconds: float
    tokenize_seconds: float
    device_seconds: float
    commit_seconds: float
    device: str
    precision: str
    committed_at: str  # UTC, ISO 8601
    retries: int = 0  # how often something about it was done again, after a fault
    quarantined: bool = False  # it was given up: all of its rows have an error
    exit_labels: list[dict[str, int]] = field(default_factory=list)  # their labels
    exit_uncertainties: list[list[int]] = field(default_factory=list)  # by `UNCERTAINTY_BINS`
    exit_audit_rows: list[int] = field(default_factory=list)
    exit_audit_agreements: list[int] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)  # rows by reason, the most frequent

    @property
    def slice_id(self) -> str:
        """Names the record's file."""
        return slice_id(self.shard, self.first_row)


_KINDS = get_type_hints(Record)

#: Equal parts of [0, 1] that a layer's uncertainties are counted in.
UNCERTAINTY_BINS = 20

#: Fields that the first ledgers did not have, and what they stand for there.
_ADDED: dict[str, Any] = {
    "retries": 0,
    "quarantined": False,
    "exit_labels": [],
    "exit_uncertainties": [],
    "exit_audit_rows": [],
    "exit_audit_agreements": [],
    "errors": {},
}


def _parsed(text: bytes) -> Record:
    """A record as `Ledger.put` writes it; ValueError for all that is not one. Much depends on what
    it says: which rows are done, and which files may be removed."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    values = {name: (_ADDED | values).get(name) for name in _KINDS}
    for name, kind in _KINDS.items():
        if not _is_of(values[name], kind):
            raise ValueError(f"its {name} is {str(values[name])[:100]}, expected {kind}")
    record = Record(**values)
    if record.path != table_path(record.shard, record.first_row):
        raise ValueError(f"its path is {record.path}, which is not its shard's")
    if record.first_row + record.rows > record.shard_rows:
        raise ValueError(f"its rows end behind those of the shard, {record.shard_rows}")
    if not len(record.exits) == len(record.exit_tokens) == len(record.exit_flops) < 128:
        raise ValueError("its counts are not of the same layers")
    details = (record.exit_labels, record.exit_uncertainties, record.exit_audit_rows,
               record.exit_audit_agreements)  # fmt: skip
    if not {len(counts) for counts in details} <= {0, len(record.exits)}:
        raise ValueError("its details are not of the same layers")
    if {"", ".", ".."} & {*record.shard.split("/"), *record.run_id.split("/")}:
        raise ValueError("its shard or run would lie elsewhere")
    return record


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of a record's field, and fits into the statistics."""
    if kind is Any:
        return True
    if get_origin(kind) is list:
        return type(value) is list and all(_is_of(each, *get_args(kind)) for each in value)
    if get_origin(kind) is dict:
        return type(value) is dict and all(
            _is_of(each, get_args(kind)[1]) for each in value.values()
        )
    if kind is int:
        return type(value) is int and 0 <= value < 2**63
    if kind is float:
        return type(value) is float or _is_of(value, int)
    if kind is str:
        return type(value) is str and bool(value.encode()) and "\0" not in value
    return type(value) is kind


@dataclass(frozen=True)
class Stray:
    """A file of labelled rows that no readable record vouches for."""

    shard: str
    #: There is a record, but it cannot be read.
    has_record: bool


@dataclass(frozen=True)
class Committed:
    """What an output holds."""

    records: list[Record]
    #: By path: what runs that were killed have left, between rows and record.
    stray: dict[str, Stray]


class Ledger:
    """Records and summaries of one output."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def put(self, record: Record) -> None:
        """Commit a slice: its labelled rows are published already."""
        data = json.dumps(asdict(record), indent=1).encode()
        self.storage.put(f"ledger/slices/{record.slice_id}.json", data)

    def committed(self) -> "Committed":
        """All commits whose labelled rows are there; unreadable records count as absent."""
        data = self.storage.paths("table", ".parquet")
        paths = self.storage.paths("ledger/slices", ".json")
        records = [record for record in self._read(paths) if record.path in data]
        stray = {}
        for path in data - {record.path for record in records}:
            if place := _slice_of(path):
                stray[path] = Stray(place[0], f"ledger/slices/{slice_id(*place)}.json" in paths)
            else:
                log.warning("not written by this job, and left alone: %s", path)
        return Committed(records, stray)

    def records(self, paths: list[str]) -> list[Record]:
        """The commits of files of labelled rows; those that are not ours, or no record vouches for,
        have none."""
        places = [place for path in paths if (place := _slice_of(path))]
        return self._read({f"ledger/slices/{slice_id(*place)}.json" for place in places})

    def _read(self, paths: set[str]) -> list[Record]:
        """The records at `paths`, but those that cannot be read."""
        records = []
        for path, text in self.storage.read(sorted(paths)).items():
            try:
                record = _parsed(text)
                if path != f"ledger/slices/{record.slice_id}.json":
                    raise ValueError(f"it is the record of {record.path}")
            except (ValueError, RecursionError) as error:
                log.warning("ignoring the unreadable record %s: %s", path, error)
                continue
            records.append(record)
        return records

    def sweep(self, paths: list[str]) -> None:
        """Remove files of labelled rows that no record vouches for."""
        for path in paths:
            log.info("removing %s, left by a run that was killed", path)
            self.storage.remove(path)

    def withdraw(self, record: Record) -> None:
        """Take back a commit; its rows stay until they are written over."""
        self.storage.remove(f"ledger/slices/{record.slice_id}.json")

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
            self.storage.put(f"stats/{run}.parquet", _encode(statistics(mine)))
        text = json.dumps(summary, indent=1, ensure_ascii=False)
        self.storage.put(f"ledger/runs/{run_id}.json", text.encode())


#: The columns of `stats/`.
STATISTICS = pa.schema(
    [
        ("run_id", pa.string()),
        ("slice_id", pa.string()),
        ("shard", pa.string()),
        ("first_row", pa.int64()),
        ("exit_layer", pa.int8()),  # from 1; null: rows with an error
        ("rows", pa.int64()),
        ("tokens", pa.int64()),
        ("flops", pa.int64()),
        ("slice_rows", pa.int64()),
        ("slice_full_flops", pa.int64()),
        ("slice_audit_rows", pa.int64()),
        ("slice_audit_agreements", pa.int64()),
        ("slice_audit_flops", pa.int64()),
        ("slice_read_seconds", pa.float64()),
        ("slice_tokenize_seconds", pa.float64()),
        ("slice_device_seconds", pa.float64()),
        ("slice_commit_seconds", pa.float64()),
        ("device", pa.string()),
        ("precision", pa.string()),
        ("committed_at", pa.string()),
        ("slice_retries", pa.int64()),
        ("slice_quarantined", pa.bool_()),
        ("labels", pa.map_(pa.string(), pa.int64())),  # rows by label; null: not known
        ("uncertainties", pa.list_(pa.int64())),  # rows by twentieth of [0, 1]
        ("audit_rows", pa.int64()),
        ("audit_agreements", pa.int64()),
        ("errors", pa.map_(pa.string(), pa.int64())),  # rows by reason, where exit_layer is null
    ]
)


def statistics(records: list[Record]) -> pa.Table:
    """One row per slice and exit layer, and one for a slice's rows with errors.

    `rows`, `tokens` and `flops` add up; columns that begin with `slice_` repeat on each row of
    their slice.
    """
    by_layer = {
        "rows": "exits",
        "tokens": "exit_tokens",
        "flops": "exit_flops",
        "labels": "exit_labels",
        "uncertainties": "exit_uncertainties",
        "audit_rows": "exit_audit_rows",
        "audit_agreements": "exit_audit_agreements",
    }
    rows = []
    for record in sorted(records, key=lambda r: (r.shard, r.first_row)):
        values = asdict(record)
        common = {
            name: values[name.removeprefix("slice_")]
            for name in STATISTICS.names
            if name.removeprefix("slice_") in values and name not in {*by_layer, "errors"}
        }
        common["slice_id"] = record.slice_id
        for place in range(len(record.exits)):
            counts = {
                name: values[field][place] for name, field in by_layer.items() if values[field]
            }
            rows.append(common | counts | {"exit_layer": place + 1})
        if record.error_rows:
            counts = {"rows": record.error_rows, "tokens": 0, "flops": 0, "errors": record.errors}
            rows.append(common | counts)
    return pa.Table.from_pylist(rows, schema=STATISTICS)


def _encode(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
