"""Is an output what an undisturbed run makes, now and at every moment on the way there?"""

import io
import json
import os
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.output.manifests import FOLDER, KEY, counting
from pipelines.output.record import record_path, slice_of, table_path

Tables = dict[str, pa.Table]  # by path below the output


class View(Protocol):
    """An output as its readers see it."""

    def files(self, folder: str) -> dict[str, Any]:
        """Every file below `folder`: its path, and a stamp that changes with its content."""

    def read(self, path: str) -> bytes:
        """A whole file."""


class LocalView:
    """An output on a local disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def files(self, folder: str) -> dict[str, Any]:
        found = {}
        for place, _, names in os.walk(self.root / folder):
            for name in names:
                path = os.path.join(place, name)
                try:
                    status = os.stat(path)
                except FileNotFoundError:  # staging files come and go
                    continue
                stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
                found[os.path.relpath(path, self.root)] = stamp
        return found

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()


class S3View:
    """An output on an object store, over a connection of its own."""

    def __init__(self, root: str, endpoint: str, key: str, secret: str, region: str) -> None:
        import s3fs

        self.root = root
        self.fs = s3fs.S3FileSystem(
            endpoint_url=endpoint,
            key=key,
            secret=secret,
            client_kwargs={"region_name": region},
            use_listings_cache=False,
        )

    def files(self, folder: str) -> dict[str, Any]:
        found = self.fs.find(f"{self.root}/{folder}", detail=True)
        return {path[len(self.root) + 1 :]: facts["ETag"] for path, facts in found.items()}

    def read(self, path: str) -> bytes:
        return bytes(self.fs.cat_file(f"{self.root}/{path}"))


def parse(data: bytes) -> pa.Table:
    """Every column of a Parquet file; raises if any of it cannot be read."""
    table = pq.ParquetFile(io.BytesIO(data)).read()
    table.validate(full=True)
    return table


def read_records(view: View) -> list[tuple[str, int]]:
    """Path and rows of every commit that the ledger has: those in manifests whose slice has no
    record of its own, and these records."""
    parts = [io.BytesIO(view.read(each.path)) for each in counting(view.files(FOLDER))]
    columns = [*KEY, "rows", "withdrawn"]
    found = {}  # of two, the later one counts
    for row in (row for part in parts for row in pq.read_table(part, columns=columns).to_pylist()):
        found[row["shard"], row["first_row"]] = row
    for path in view.files("ledger/slices"):
        row = json.loads(view.read(path))
        found[row["shard"], row["first_row"]] = row
    return [
        (table_path(*slice), row["rows"])
        for slice, row in found.items()
        if not row.get("withdrawn")
    ]


def vouching(tables: Tables) -> dict[str, str]:
    """Where the record of each file lies, as long as its run is at work: the file's path by it."""
    places = {path: slice_of(path) for path in tables}
    return {record_path(*place): path for path, place in places.items() if place}


def read_tables(view: View) -> Tables:
    """The whole of an output's `table/`."""
    return {path: parse(view.read(path)) for path in sorted(view.files("table"))}


class Watch(threading.Thread):
    """A reader that looks again and again while the job works, and trusts nothing.

    Each file is read to its end when it is new or has changed; its ids must be those of the
    undisturbed run's file of that name, no listing may hold a row twice, and no record may be there
    before the file that it records.
    """

    def __init__(
        self, view: View, expected: Tables, records: dict[str, str], pause: float = 0.02
    ) -> None:
        super().__init__(daemon=True)
        self.view, self.expected, self.pause = view, expected, pause
        self.records = records
        self.committed = 0  # files
        self.listings = 0
        self.files_read = 0
        self.store_errors = 0  # not the job's fault
        self.wrong: list[str] = []
        self._stamps: dict[str, Any] = {}
        self._ids: dict[str, np.ndarray] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self.look()
            except Exception as error:  # the thread must not die unseen
                self.store_errors += 1
                if self.store_errors > 100:
                    self.wrong.append(f"the reader gave up: {error!r}")
                    return
            self._ended.wait(self.pause)

    def stop(self) -> None:
        """Look one last time, and end."""
        before = self.listings
        while self.is_alive() and self.listings < before + 2:  # one that began after this call
            self.join(0.01)
        self._ended.set()
        self.join()

    def look(self) -> None:
        """List the table once, and read what is new."""
        records = self.view.files("ledger/slices")
        found = self.view.files("table")
        parquet = {path: stamp for path, stamp in found.items() if path.endswith(".parquet")}
        self.committed = len(parquet)
        self.listings += 1
        self.wrong += [f"{path} has vanished" for path in self._stamps if path not in parquet]
        self.wrong += [
            f"{record} is there before {self.records[record]}"
            for record in records
            if record in self.records and self.records[record] not in parquet
        ]
        self._ids = {path: ids for path, ids in self._ids.items() if path in parquet}
        fresh = [path for path, stamp in parquet.items() if self._stamps.get(path) != stamp]
        for path in fresh:
            self._read(path)
        self._stamps = parquet
        if fresh:
            ids = np.concatenate([*self._ids.values(), np.empty(0, np.int64)])
            if twice := len(ids) - len(np.unique(ids)):
                self.wrong.append(f"{twice} rows of {len(parquet)} files are there twice")

    def _read(self, path: str) -> None:
        data = self.view.read(path)
        self.files_read += 1
        try:
            ids = parse(data)["id"].to_numpy()
        except (pa.ArrowException, OSError, KeyError) as error:
            self.wrong.append(f"{path} ({len(data)} bytes) cannot be read: {error}")
            return
        self._ids[path] = ids
        if path not in self.expected:
            self.wrong.append(f"{path} is not in the undisturbed output")
        elif not np.array_equal(ids, self.expected[path]["id"].to_numpy()):
            self.wrong.append(f"{path} has {len(ids)} rows that are not its own")


def differences(view: View, expected: Tables) -> list[str]:
    """What is wrong with an output that should be complete; nothing if it is exactly once."""
    rows = sum(table.num_rows for table in expected.values())
    return [
        *table_differences(view, expected),
        *ledger_differences(view, expected),
        *statistics_differences(view, rows),
        *[f"{path} is left over" for path in sorted(view.files("staging"))],
    ]


def table_differences(view: View, expected: Tables) -> list[str]:
    """Files that are too many, missing or unlike the undisturbed ones, lineage included."""
    found = read_tables(view)
    wrong = [f"{path} is too many" for path in sorted(found.keys() - expected.keys())]
    wrong += [f"{path} is missing" for path in sorted(expected.keys() - found.keys())]
    for path in sorted(found.keys() & expected.keys()):
        if not found[path].equals(expected[path], check_metadata=True):
            wrong.append(f"{path} differs: {_first_difference(found[path], expected[path])}")
    return wrong


def _first_difference(found: pa.Table, expected: pa.Table) -> str:
    if found.num_rows != expected.num_rows:
        return f"{found.num_rows} rows, expected {expected.num_rows}"
    if not found.schema.equals(expected.schema, check_metadata=True):
        return f"schema {found.schema.to_string()}, expected {expected.schema.to_string()}"
    for mine, theirs in zip(found.to_pylist(), expected.to_pylist(), strict=True):
        if mine != theirs:
            return f"{mine}, expected {theirs}"
    return "in nothing that can be printed"


def ledger_differences(view: View, expected: Tables) -> list[str]:
    """Records that do not add up to the table."""
    records = read_records(view)
    said = dict(records)
    there = {path: table.num_rows for path, table in expected.items()}
    wrong = []
    if len(records) != len(expected):
        wrong.append(f"{len(records)} records, expected {len(expected)}")
    if said != there:
        odd = sorted(said.items() ^ there.items())
        wrong.append(f"records and table disagree: {odd[:5]}")
    return wrong


def statistics_differences(view: View, rows: int) -> list[str]:
    """Statistics that do not add up to the rows of the corpus, or count a slice twice."""
    paths = sorted(view.files("stats"))
    if not paths:
        return ["there are no statistics"]
    stats = pa.concat_tables([parse(view.read(path)) for path in paths])
    wrong = []
    if (total := sum(stats["rows"].to_pylist())) != rows:
        wrong.append(f"the statistics add up to {total} rows, expected {rows}")
    parts = list(
        zip(*(stats[name].to_pylist() for name in ("slice_id", "exit_layer")), strict=True)
    )
    if twice := len(parts) - len(set(parts)):
        wrong.append(f"{twice} parts of slices are in the statistics twice")
    runs = set(zip(*(stats[name].to_pylist() for name in ("slice_id", "run_id")), strict=True))
    if twice := len(runs) - len({slice_id for slice_id, _ in runs}):
        wrong.append(f"{twice} slices are in the statistics of two runs")
    return wrong


def rows_quarantined(view: View, expected: Tables) -> int:
    """Rows with an error that the undisturbed run does not have."""
    count = 0
    for path, table in read_tables(view).items():
        usual = expected[path]["error"].to_pylist() if path in expected else []
        if len(usual) == table.num_rows:
            pairs = zip(table["error"].to_pylist(), usual, strict=True)
            count += sum(error is not None and error != other for error, other in pairs)
    return count
