"""Scans of shards: of this run, and stored in the output until the shard is labelled.

A footer describes a Parquet file. Files of other formats are read once in full to find their
slices; stored scans spare a run after a kill from doing that again.
"""

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa

from pipelines.input.columns import InputColumns
from pipelines.input.formats.fields import merged
from pipelines.input.formats.format import Scan, Start
from pipelines.input.shards import Shard
from pipelines.input.slices import check_columns, scan
from pipelines.input.unreadable import ShardError, read_patiently
from pipelines.output.record import slice_id
from pipelines.output.retry import Patience
from pipelines.output.storage import FOOTER_THREADS, Storage

log = logging.getLogger(__name__)

FOLDER, FIELDS = "ledger/scans", "ledger/fields.arrow"
_FACTS = b"fastbert.scan"
#: Seconds between two log lines with the number of opened files.
_SILENCE = 10.0


class Scans:
    """Scans of shards."""

    def __init__(self, storage: Storage | None = None, keep: bool = False) -> None:
        """Uses the scans in `storage`; with `keep`, writes new ones there."""
        self.storage, self.keep = storage, keep
        self._schemas: dict[str, pa.Schema] = {}
        self._used = False

    def of(self, shard: Shard, columns: InputColumns) -> Scan:
        """The scan of a shard. Raises ShardError if it cannot be labelled."""
        whole = shard.format.scanned
        self._used |= whole
        found = self._kept(shard) if whole else None
        if found is not None:
            check_columns(shard, found, columns)
        else:
            found = read_patiently(Patience(), scan, shard, columns)
            if whole and self.keep and self.storage:
                self.storage.put(_path(shard), _encoded(found, shard))
        if not shard.format.typed:
            self._schemas[shard.name] = found.schema
        return found

    def each(self, shards: list[Shard], columns: InputColumns) -> Iterator[Scan | str]:
        """The scan of each shard, or why it cannot be labelled."""
        if whole := sum(shard.format.scanned for shard in shards):
            log.info("counting the rows of %d files that are not Parquet", whole)
        said = time.monotonic()
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            found = pool.map(lambda shard: self._found(shard, columns), shards)
            for number, scan in enumerate(found):
                if time.monotonic() > said + _SILENCE:
                    said = time.monotonic()
                    log.info("opened %d of %d new files", number, len(shards))
                yield scan

    def _found(self, shard: Shard, columns: InputColumns) -> Scan | str:
        if shard.problem is not None:
            return shard.problem
        try:
            return self.of(shard, columns)
        except ShardError as error:
            return str(error)

    def fields(self) -> pa.Schema:
        """The columns of all formats without types, those of earlier runs first, so that files of
        one output agree as far as possible."""
        new = [self._schemas[name] for name in sorted(self._schemas)]
        before = self._read(FIELDS) if new else None
        return merged(new if before is None else [before, *new])

    def settle(self, fields: pa.Schema) -> None:
        """Store the fields for later runs."""
        if fields.names and self.storage:
            self.storage.put(FIELDS, fields.serialize().to_pybytes())

    def clear(self) -> None:
        """Remove the stored scans: their shards are labelled."""
        if self.storage and self._used:
            self.storage.remove_all(sorted(self.storage.paths(FOLDER, ".arrow")))

    def _kept(self, shard: Shard) -> Scan | None:
        schema = self._read(_path(shard))
        if schema is None or _FACTS not in (schema.metadata or {}):
            return None
        with suppress(ValueError, TypeError, KeyError):
            facts = json.loads(schema.metadata[_FACTS])
            if facts["version"] == shard.version:
                starts = [Start(*start) for start in facts["starts"]]
                return Scan(facts["rows"], schema.remove_metadata(), starts)
        return None

    def _read(self, path: str) -> pa.Schema | None:
        data = self.storage.read([path]).get(path) if self.storage else None
        if data is None:
            return None
        try:
            return pa.ipc.read_schema(pa.py_buffer(data))
        except (pa.ArrowException, OSError) as error:
            log.warning("cannot read %s, scanning again: %s", path, error)
            return None


def _path(shard: Shard) -> str:
    return f"{FOLDER}/{slice_id(shard.name, 0)}.arrow"


def _encoded(found: Scan, shard: Shard) -> bytes:
    facts = {"version": shard.version, "rows": found.rows, "starts": list(found.starts)}
    schema = found.schema.with_metadata({_FACTS: json.dumps(facts)})
    data: bytes = schema.serialize().to_pybytes()
    return data
