"""Scans of shards: of this run, and stored in the output until the shard is labelled.

A footer describes a Parquet file. Files of other formats are read once in full to find their
slices; stored scans spare a run after a kill from doing that again.
"""

import json
import logging
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress

import pyarrow as pa

from fastbert.errors import FastBertError
from fastbert.filesystem import redacted
from pipelines.children import SPAWN, end_with_driver
from pipelines.input.columns import InputColumns
from pipelines.input.formats.fields import merged
from pipelines.input.formats.format import Scan, Start
from pipelines.input.shards import Shard
from pipelines.input.slices import check_columns, scan
from pipelines.input.unreadable import ShardError, read_patiently
from pipelines.machine import cores
from pipelines.output.record import slice_id
from pipelines.output.retry import Patience
from pipelines.output.storage import FOOTER_THREADS, Storage

log = logging.getLogger(__name__)

FOLDER, FIELDS = "ledger/scans", "ledger/fields.arrow"
_FACTS = b"fastbert.scan"
#: Bytes from which on a file of text is scanned by a process: to count its rows keeps a core busy
#: for longer than a process takes to start, and threads of Python's have one core together.
_LARGE = 32 << 20
#: Seconds between two words of how many files are opened.
_SILENCE = 10.0


class Scans:
    """Scans of shards."""

    def __init__(self, storage: Storage | None = None, keep: bool = False) -> None:
        """Uses the scans in `storage`; with `keep`, writes new ones there."""
        self.storage, self.keep = storage, keep
        self._schemas: dict[str, pa.Schema] = {}
        self._used = False

    def of(
        self, shard: Shard, columns: InputColumns, processes: ProcessPoolExecutor | None = None
    ) -> Scan:
        """What a shard holds; `processes` scan those that take long. Raises ShardError if it cannot
        be labelled, FastBertError where a process has died."""
        whole = shard.format.scanned
        self._used |= whole
        found = self._kept(shard) if whole else None
        if found is not None:
            check_columns(shard, found, columns)
        else:
            if processes and _is_large(shard):
                found = _apart(processes, shard, columns)
            else:
                found = _new(shard, columns)
            if whole and self.keep and self.storage:
                self.storage.put(_path(shard), _encoded(found, shard))
        if not shard.format.typed:
            self._schemas[shard.name] = found.schema
        return found

    def each(self, shards: list[Shard], columns: InputColumns) -> Iterator[Scan | str]:
        """The scan of each shard, or why it cannot be labelled."""
        scanned = [_path(shard) for shard in shards if shard.format.scanned]
        stored = {*self.storage.paths(FOLDER, ".arrow")} if scanned and self.storage else set()
        if new := len({*scanned} - stored):
            log.info("counting the rows of files that are not Parquet: %d", new)
        said = time.monotonic()
        large = any(map(_is_large, shards))
        with (
            ThreadPoolExecutor(FOOTER_THREADS) as pool,
            _processes() if large else nullcontext() as processes,
        ):
            found = pool.map(lambda shard: self._found(shard, columns, processes), shards)
            for number, scan in enumerate(found):
                if time.monotonic() > said + _SILENCE:
                    said = time.monotonic()
                    log.info("opened %d of %d new files", number, len(shards))
                yield scan

    def _found(
        self, shard: Shard, columns: InputColumns, processes: ProcessPoolExecutor | None
    ) -> Scan | str:
        if shard.problem is not None:
            return shard.problem
        try:
            return self.of(shard, columns, processes)
        except ShardError as error:
            return str(error)

    def fields(self) -> pa.Schema:
        """The columns of all formats without types, those of earlier runs first, so that files of
        one output agree as far as possible."""
        new = [self._schemas[name] for name in sorted(self._schemas)]
        before = self.settled() if new else None
        return merged(new if before is None else [before, *new])

    def settled(self) -> pa.Schema | None:
        """The fields that earlier runs have kept; None where none has."""
        return self._read(FIELDS)

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


def _is_large(shard: Shard) -> bool:
    return shard.format.scanned and (shard.size or 0) >= _LARGE


def _new(shard: Shard, columns: InputColumns) -> Scan:
    return read_patiently(Patience(), scan, shard, columns)


@contextmanager
def _processes() -> Iterator[ProcessPoolExecutor]:
    """As many as there are cores; each starts when it is needed."""
    pool = ProcessPoolExecutor(cores(), SPAWN, _begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    end_with_driver()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the driver gets, too


def _apart(processes: ProcessPoolExecutor, shard: Shard, columns: InputColumns) -> Scan:
    try:
        return processes.submit(_new, shard, columns).result()
    except BrokenProcessPool as error:
        raise FastBertError(
            f"a process died that counts the rows of {redacted(shard.url)} or of another file; run "
            "it again, with more memory if that was short; what is done is kept"
        ) from error


def _path(shard: Shard) -> str:
    return f"{FOLDER}/{slice_id(shard.name, 0)}.arrow"


def _encoded(found: Scan, shard: Shard) -> bytes:
    facts = {"version": shard.version, "rows": found.rows, "starts": list(found.starts)}
    schema = found.schema.with_metadata({_FACTS: json.dumps(facts)})
    data: bytes = schema.serialize().to_pybytes()
    return data
