"""The ledger: the content of an output, slice by slice, and a summary of each run.

A slice counts as done if and only if its record exists and matches shard version and recipe. A run
commits with one JSON record per slice; when it ends, they are folded into manifests.
"""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fastbert.errors import FastBertError, InputError
from fastbert.filesystem import redacted
from pipelines.output import history, manifests
from pipelines.output.committed import PATH, Committed, held
from pipelines.output.manifests import KEY, PLANNED, Manifest
from pipelines.output.record import (
    FACTS,
    OF_ATTEMPT,
    Record,
    put,
    readable,
    record_path,
    slice_of,
)
from pipelines.output.sets import Mask, Sets, among, chosen
from pipelines.output.storage import FOOTER_THREADS, Damaged, Storage

log = logging.getLogger(__name__)

#: The object with the ledger's format, in outputs that have manifests.
FORMAT_PATH, FORMAT = "ledger/format.json", 2
#: Records decoded at a time; and attempts of a reader while manifests are being merged.
_BATCH, _LOOKS = 10_000, 10


class Ledger:
    """Records, manifests and summaries of one output.

    Methods that fold or withdraw use what `committed` has read, and are only for the lock's holder.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        #: Single records, all columns.
        self._open = manifests.SCHEMA.empty_table()
        #: The valid manifests, the latest last; None before they are read. They never change, so
        #: the columns that plans read are kept; None for a damaged one.
        self._counting: list[Manifest] | None = None
        self._known: dict[Manifest, pa.Table | None] = {}
        #: Paths of manifests that were merged into others, but not yet removed.
        self._merged: list[str] = []
        self._formatted = False

    def put(self, record: Record) -> None:
        """Commit a slice whose labelled rows are already published."""
        put(self.storage, record)

    def recorded(self) -> pa.Table:
        """All commits with a record, as in `Committed`; unreadable records count as absent.

        Raises InputError for an output of a later format, and what `Storage` raises.
        """
        self._look()
        parts = [held(self._rows(each), each.path) for each in self._counting or []]
        parts.append(held(self._open, ""))
        masks = manifests.latest(parts)
        parts = [
            chosen(part, mask & ~part["withdrawn"].to_numpy())
            for part, mask in zip(parts, masks, strict=True)
        ]
        return pa.concat_tables(parts)

    def committed(self, listing: tuple[pa.ChunkedArray, list[str]] | None = None) -> Committed:
        """All commits whose labelled rows exist, and labelled rows without a record. `listing` is
        that of the table, if known."""
        files, foreign = listing or self.storage.listing("table", ".parquet")
        commits = self.recorded()
        with Sets(commits=commits.select(KEY), files=pa.table({"path": files})) as sets:
            there = sets.mask("commits", f"select n from commits semi join files on {PATH} = path")
            lone = f"select path from files anti join commits on {PATH} = path order by path"
            paths = [] if there.sum() == len(files) else sets.table(lone)["path"].to_pylist()
        stray, foreign = {}, list(foreign)
        for path in paths:
            if place := slice_of(path):
                stray[path] = place[0]
            else:
                foreign.append(path)
        for path in sorted(foreign):
            log.warning("not written by this job, ignored: %s", redacted(path))
        return Committed(chosen(commits, there), stray)

    def _look(self) -> None:
        """Read the single records and the manifests."""
        if (text := self.storage.read([FORMAT_PATH]).get(FORMAT_PATH)) is not None:
            _check_format(text)
            self._formatted = True
        # In this order, records folded meanwhile are seen in at least one place.
        self._open = self._records()
        for _ in range(_LOOKS):
            listed = self.storage.paths(manifests.FOLDER, ".parquet")
            self._counting = manifests.counting(listed)
            if all(map(self._read, self._counting)):
                break
        else:
            raise self._absent()
        self._merged = sorted(listed - {each.path for each in self._counting})
        last = 0
        for each in self._counting:
            if each.first > last + 1:
                log.warning(
                    "%s: no manifest of the folds %d to %d; their slices count as without a record",
                    *(manifests.FOLDER, last + 1, each.first - 1),
                )
            last = max(last, each.last)

    def _records(self) -> pa.Table:
        paths = sorted(self.storage.paths("ledger/slices", ".json"))
        batches = [paths[i : i + _BATCH] for i in range(0, len(paths), _BATCH)]
        parts = [manifests.rows_of(readable(self.storage.read(some))) for some in batches]
        return pa.concat_tables([manifests.SCHEMA.empty_table(), *parts])

    def _read(self, manifest: Manifest) -> bool:
        """Read the columns of a manifest that plans need; False if it no longer exists."""
        if manifest not in self._known:
            try:
                table = self.storage.columns(manifest.path, PLANNED)
                if table is None:
                    return False
                self._known[manifest] = manifests.checked(table)
            except Damaged as error:
                self._known[manifest] = None
                _warn_of(manifest.path, error)
        return True

    def _absent(self) -> FastBertError:
        return FastBertError(
            f"'{redacted(self.storage.url)}/{manifests.FOLDER}' lists manifests that do not exist; "
            "run again"
        )

    def _rows(self, manifest: Manifest) -> pa.Table:
        known = self._known[manifest]
        return manifests.PLAN_SCHEMA.empty_table() if known is None else known

    def whole(self, commits: pa.Table) -> pa.Table:
        """All columns of these commits, as rows of a manifest."""
        places = {path for path in pc.unique(commits["manifest"]).to_pylist() if path}
        for _ in range(_LOOKS):
            found = self.storage.read(sorted(places))
            if found.keys() == places:
                break
            self._look()  # another process has merged them
            places = {each.path for each in self._counting or []}
        else:
            raise self._absent()
        keys = commits.select([*KEY, "run_id", "committed_at"])
        parts = [manifests.SCHEMA.empty_table(), chosen(self._open, among(self._open, keys))]
        for path, data in found.items():
            try:
                parts += [chosen(g, among(g, keys)) for g in manifests.groups(data)]
            except Damaged as error:
                _warn_of(path, error)
        return pa.concat_tables(parts, promote_options="default").select(manifests.SCHEMA.names)

    def records(self, commits: pa.Table) -> list[Record]:
        """These commits, as records."""
        return manifests.records_of(self.whole(commits))

    def described(self, paths: list[str], run_id: str) -> list[Record]:
        """Records of files without one, read from the files' own metadata, as committed by this run
        now at no cost. Files without such metadata, as of earlier releases, get none."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        unknown = dict.fromkeys(OF_ATTEMPT, 0) | {"run_id": run_id, "committed_at": now}
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            footers = zip(paths, pool.map(self.storage.footer, paths), strict=True)
            known = {path: footer for path, footer in footers if footer is not None}
        told = {path: (known[path].metadata or {}).get(FACTS.encode()) for path in known}
        found = readable({path: text for path, text in told.items() if text}, unknown)
        return [record for record in found if known[record.path].num_rows == record.rows]

    def adopt(self, records: list[Record]) -> None:
        """Write the records of files that lost theirs."""
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            for record, _ in zip(records, pool.map(self.put, records), strict=True):
                log.info("restored the record of %s, which was missing", record.path)

    def sweep(self, paths: list[str]) -> None:
        """Remove files of labelled rows that have no record."""
        for path in paths:
            log.info("removing %s, which has no record", path)
        self.storage.remove_all(paths)

    def withdraw(self, commits: pa.Table) -> None:
        """Withdraw commits; their rows stay until they are overwritten."""
        if not len(commits):
            return
        if self._counting:  # without manifests, there is nothing to withdraw in one
            self._append(manifests.withdrawals_of(commits))
        self._remove_records(chosen(self._open, among(self._open, commits.select(KEY))))

    def forget(self, commits: pa.Table) -> None:
        """Remove slices, the records first, so that no record is without its rows."""
        self.withdraw(commits)
        with Sets(commits=commits.select(KEY)) as sets:
            paths = sets.table(f"select {PATH} as path from commits")["path"].to_pylist()
        self.storage.remove_all(paths)

    def unreported(self, commits: pa.Table) -> set[str]:
        """Ids of runs of these commits that were killed before they wrote their statistics."""
        written = self.storage.paths("stats", ".parquet")
        runs = pc.unique(commits["run_id"]).to_pylist()
        return {run for run in runs if f"stats/{run}.parquet" not in written}

    def reopen(self, run_id: str) -> None:
        """Reuse a run's name: remove the first run's statistics, so that those of this one are
        missed, and written later, if it is killed."""
        self.storage.remove(f"stats/{run_id}.parquet")

    def close_run(
        self,
        run_id: str,
        summary: dict[str, Any],
        commits: pa.Table,
        new: pa.Table,
        killed: set[str],
    ) -> None:
        """Write a run's summary, and the statistics of this run and of the runs `killed`.

        `new` is what it has committed, as rows of a manifest, and `commits` what else the output
        holds: nothing is read again at the end of a large run.
        """
        runs = sorted({run_id, *killed})  # ids can be reused, so commits may be older
        mine = commits.filter(pc.is_in(commits["run_id"], pa.array(runs, pa.string())))
        rows = pa.concat_tables([self.whole(mine), new])
        for run in runs:
            of_run = chosen(rows, pc.equal(rows["run_id"], run).to_numpy())
            self.storage.put(f"stats/{run}.parquet", history.encoded(of_run))
        text = json.dumps(summary, indent=1, ensure_ascii=False)
        self.storage.put(f"ledger/runs/{run_id}.json", text.encode())

    def fold(self, new: pa.Table) -> None:
        """Put the records of their own, and those that this run has written, which are `new`, into
        a manifest."""
        parts = [self._open, new]
        masks = manifests.latest(parts)
        rows = pa.concat_tables([chosen(p, m) for p, m in zip(parts, masks, strict=True)])
        if len(rows):
            if self._counting is None:
                self._look()
            with Sets(rows=rows.select(KEY)) as sets:  # similar rows compress well together
                order = sets.table(f"select n from rows order by {', '.join(KEY)}")["n"]
            self._append(rows.take(order.combine_chunks()))
            self._remove_records(rows)
        self.storage.remove_all(self._merged)
        self._merged = []

    def _append(self, rows: pa.Table) -> None:
        """Publish rows in a manifest, merged with earlier ones that are not larger. So each of n
        slices is written about log2(n) times, and there are at most as many manifests."""
        counting = self._counting or []
        ends = [0, *(each.last for each in counting)]
        gaps = [i for i, each in enumerate(counting) if each.first > ends[i] + 1]
        cut, size = len(counting), len(rows)
        while cut and (known := self._known[counting[cut - 1]]) is not None:
            if len(known) > size and cut <= max(gaps, default=cut):
                break  # merging those after a missing one would hide that it is missing
            cut, size = cut - 1, size + len(known)
        merged = counting[cut:]
        parts = [*map(self._rows, merged), rows.select(PLANNED)]
        masks = manifests.latest(parts)
        if not cut:  # there is nothing left to withdraw
            masks = [m & ~p["withdrawn"].to_numpy() for p, m in zip(parts, masks, strict=True)]
        old = zip(merged, masks, strict=False)
        pieces = chain.from_iterable(self._pieces(manifest, mask) for manifest, mask in old)
        try:
            data = manifests.encoded(chain(pieces, [chosen(rows, masks[-1])]))
        except Damaged:
            return self._append(rows)  # and leave the old one in place
        if not self._formatted:
            self.storage.put(FORMAT_PATH, json.dumps({"format": FORMAT}).encode())
            self._formatted = True
        new = Manifest.new(ends[cut] + 1, ends[-1] + 1, counting)
        self.storage.put(new.path, data)
        self._merged += [each.path for each in merged]
        self._counting = [*counting[:cut], new]
        self._known[new] = pa.concat_tables(map(chosen, parts, masks))
        self.storage.remove_all(self._merged)
        self._merged = []

    def _pieces(self, manifest: Manifest, mask: Mask) -> Iterator[pa.Table]:
        """The rows of a mask in a manifest, with all columns."""
        try:
            data, start = self.storage.read([manifest.path]).get(manifest.path), 0
            if data is None:
                raise Damaged("it no longer exists")
            for group in manifests.groups(data):
                yield chosen(group, mask[start : start + len(group)])
                start += len(group)
        except Damaged as error:
            self._known[manifest] = None
            _warn_of(manifest.path, error)
            raise

    def _remove_records(self, rows: pa.Table) -> None:
        """Remove the single records of these slices."""
        places = rows.select(KEY).to_pylist()
        self.storage.remove_all([record_path(**place) for place in places])
        self._open = chosen(self._open, ~among(self._open, rows.select(KEY)))


def _check_format(text: bytes) -> None:
    try:
        found = json.loads(text)["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        found = "unreadable"
    if found != FORMAT:
        raise InputError(
            f"the format of the output's ledger is {found}, expected {FORMAT}; if a later release "
            f"of fastbert-ray wrote it, use that release; if {FORMAT_PATH} is damaged, remove it"
        )


def _warn_of(path: str, error: Damaged) -> None:
    log.warning(
        "cannot read the manifest %s, its slices count as without a record: %s; restore it from a "
        "backup, or remove it",
        *(redacted(path), error),
    )
