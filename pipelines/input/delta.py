"""Delta tables as input: which files the current version has."""

import json
import os
import posixpath
import tempfile
from contextlib import suppress
from urllib.parse import unquote

import pyarrow as pa
from fsspec import AbstractFileSystem

from fastbert.errors import InputError, explained
from fastbert.filesystem import redacted
from pipelines.output.retry import Patience

#: What a Delta table may ask of readers and a reader of its plain files does right.
_HARMLESS = {"timestampNtz", "typeWidening", "v2Checkpoint", "vacuumProtocolCheck"}
PLAIN = "write its rows to a folder of plain Parquet, and pass that one"


def delta_files(fs: AbstractFileSystem, folder: str) -> list[str]:
    """Paths, below the folder, of the files of a Delta table's current version.

    The log is copied: so any file system will do, with the credentials that it has. Raises
    InputError for a log that cannot be read, for a table that plain reading of these files would
    get wrong, and without the package deltalake.
    """
    what = f"'{redacted(folder)}' is a Delta table"
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ModuleNotFoundError as error:
        if error.name != "deltalake":
            raise
        raise InputError(
            f"{what}, whose log is read by the package deltalake, which is missing; "
            f"pip install 'fastbert-ray[delta]', or {PLAIN}"
        ) from error
    advice = f"repair the table, or {PLAIN}"
    with tempfile.TemporaryDirectory() as copy:
        _copy_log(fs, f"{folder}/_delta_log", f"{copy}/_delta_log")
        with explained(f"{what}, whose log cannot be read", advice, DeltaError, OSError):
            table = DeltaTable(copy)
            paths = [str(path) for path in table.get_add_actions()["path"].to_pylist()]
            features = set(table.protocol().reader_features or [])
        wrong = features - _HARMLESS - {"columnMapping", "deletionVectors"}
        if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
            wrong.add("columnMapping")
        if "deletionVectors" in features:
            try:
                deleted = bool(pa.table(table.deletion_vectors()).num_rows)
            except DeltaError:  # the vectors are files beside the log, which were not copied
                deleted = True
            wrong |= {"deletionVectors"} if deleted else set()
    if wrong:
        raise InputError(
            f"{what} with {', '.join(sorted(wrong))}, so that its files alone do not hold its "
            f"rows; expected one without; {PLAIN}, or, of deletion vectors, REORG TABLE … APPLY "
            "(PURGE)"
        )
    if elsewhere := [path for path in paths if path.startswith("/") or "://" in path]:
        raise InputError(
            f"{what} with files that lie elsewhere, as {redacted(elsewhere[0])}; expected no "
            f"shallow clone; {PLAIN}"
        )
    return [unquote(path) for path in paths]


def _copy_log(fs: AbstractFileSystem, log: str, target: str) -> None:
    """Copy what the current version needs: from the last checkpoint on."""
    patience, oldest = Patience(), 0
    with suppress(FileNotFoundError, ValueError, LookupError, TypeError):
        last = json.loads(patience(fs.cat_file, f"{log}/_last_checkpoint"))
        oldest = int(last["version"])
    names = [path[len(log) + 1 :] for path in patience(fs.find, log)]
    wanted = [n for n in names if not n[:20].isdigit() or int(n[:20]) >= oldest]
    for folder in {posixpath.dirname(n) for n in wanted}:
        os.makedirs(posixpath.join(target, folder), exist_ok=True)
    patience(fs.get, [f"{log}/{n}" for n in wanted], [f"{target}/{n}" for n in wanted])
