"""The export job: brings a Delta or Iceberg table up to date with a labelled output, by run."""

import logging
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fastbert.errors import FastBertError, InputError
from fastbert.filesystem import redacted
from fastbert.writable import check_folder
from pipelines.export.plan import Change, Labelled, Overtaken, next_change, pending_shards
from pipelines.export.rows import Rows, columns_of, fitting
from pipelines.labelling.progress import counting
from pipelines.output.ledger import Ledger
from pipelines.output.storage import Storage
from pipelines.settings import ExportSettings

if TYPE_CHECKING:
    from pipelines.export.delta import Delta
    from pipelines.export.iceberg import Iceberg

log = logging.getLogger(__name__)

#: Times in a row that other writers of the table may be faster.
_TRIES = 10


def export(settings: ExportSettings) -> dict[str, Any]:
    """Bring the table up to date with the output. Returns the summary.

    Raises InputError for places and columns that cannot be exported, and OutputChanged if slices
    are labelled again while they are exported.
    """
    ledger = Ledger(Storage(settings.output))
    _check_places(settings, ledger.storage)
    root = redacted(ledger.storage.fs.unstrip_protocol(ledger.storage.root))
    place = redacted(settings.delta or settings.iceberg or "")
    table = _table(settings, root)
    done: list[Change] = []
    output: Labelled | None = None
    columns, version, overtaken = pa.schema([]), None, 0
    while True:
        held = table.held()
        if output is None or table.version != version:
            # Another export has been here, and may have seen a newer ledger: look at it after the
            # table, or what it has added would be taken for gone.
            output = Labelled.of(ledger)
            columns = columns_of(ledger.storage, pending_shards(output, held))
        change = next_change(output, held)
        if change is None:
            break
        try:
            _commit(table, change, ledger, fitting(columns, table.schema()))
        except Overtaken as error:
            overtaken += 1
            if overtaken == _TRIES:
                raise FastBertError(
                    f"other writers changed {place} each of the {_TRIES} times "
                    f"that this one tried to ({error}); stop them, and export again"
                ) from error
            log.info("another writer was faster, looking again: %s", error)
            continue
        done.append(change)
        version, overtaken = table.version, 0
    return {
        "output": redacted(settings.output),
        "iceberg" if settings.iceberg else "delta": place,
        "version": table.version,
        "runs": [change.run_id for change in done if change.run_id is not None],
        "slices_added": sum(len(change.added) for change in done),
        "rows_added": sum(change.rows for change in done),
        "slices_removed": sum(len(change.removed) for change in done),
        "unfinished_run": output.unfinished,
    }


def _table(settings: ExportSettings, output: str) -> "Delta | Iceberg":
    """The table that was asked for; InputError where its package is missing."""
    package, extra = ("deltalake", "delta") if settings.delta else ("pyiceberg", "iceberg")
    try:
        if settings.delta:
            from pipelines.export.delta import Delta

            return Delta(settings.delta, output)
        from pipelines.export.iceberg import Iceberg

        return Iceberg(settings.iceberg or "", output)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise InputError(
            f"such tables are written by the package {package}, which is missing; "
            f"pip install 'fastbert-ray[{extra}]'"
        ) from error


def _commit(table: "Delta | Iceberg", change: Change, ledger: Ledger, schema: pa.Schema) -> None:
    with counting(change.rows) as counter:
        rows = Rows(ledger, change.added, schema, counter.advance)
        try:
            table.commit(change, pa.RecordBatchReader.from_batches(schema, iter(rows)))
        except Exception:
            if rows.failure is not None:
                raise rows.failure from None
            raise
    log.info(
        "run %s: %d slices with %d rows added, %d slices removed",
        *(change.run_id, len(change.added), change.rows, len(change.removed)),
    )


def _check_places(settings: ExportSettings, storage: Storage) -> None:
    if settings.delta:
        _check_delta(settings.delta, settings.output)
    if not storage.paths("stats", ".parquet"):
        raise InputError(
            f"no run has ended at '{redacted(settings.output)}'; expected the --output of "
            "fastbert label, after its first run"
        )


def _check_delta(url: str, output: str) -> None:
    folder = url.removeprefix("file://")
    if "://" not in folder:  # others are reached by deltalake alone
        check_folder(folder)
        found = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if "_delta_log" not in found and any(not name.startswith(".") for name in found):
            raise InputError(
                f"--delta {redacted(url)} is a folder with other files, expected a Delta table, an "
                "empty folder, or none; pass one beside it"
            )
    if f"{os.path.realpath(url)}/".startswith(f"{os.path.realpath(output)}/"):
        raise InputError(
            f"--delta {redacted(url)} lies inside --output {redacted(output)}, where only "
            "labelling may write; put it beside the output"
        )
