"""Delta tables as input: the files of the current version."""

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

#: Features of Delta tables that plain reading of the files supports.
_HARMLESS = {"timestampNtz", "typeWidening", "v2Checkpoint", "vacuumProtocolCheck"}
PLAIN = "write its rows to a folder of plain Parquet, and pass that one"


def delta_files(fs: AbstractFileSystem, folder: str) -> list[str]:
    """Paths, below the folder, of the files of a Delta table's current version.

    The log is copied, so any file system works, with its own credentials. Raises InputError if the
    log cannot be read, if plain reading of the files would be wrong, and if the package deltalake
    is missing.
    """
    what = f"'{redacted(folder)}' is a Delta table"
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ModuleNotFoundError as error:
        if error.name != "deltalake":
            raise
        raise InputError(
            f"{what}, and reading its log needs the package deltalake; pip install "
            f"'fastbert-ray[delta]', or {PLAIN}"
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
            f"{what} with {', '.join(sorted(wrong))}, so its files alone do not hold its rows; "
            f"expected a table without; {PLAIN}, or, for deletion vectors, REORG TABLE … APPLY "
            "(PURGE)"
        )
    if elsewhere := [path for path in paths if path.startswith("/") or "://" in path]:
        raise InputError(
            f"{what} with files outside its folder, such as {redacted(elsewhere[0])}; expected no "
            f"shallow clone; {PLAIN}"
        )
    return [unquote(path) for path in paths]


def _copy_log(fs: AbstractFileSystem, log: str, target: str) -> None:
    """Copy the log from the last checkpoint on, which is all the current version needs."""
    patience, oldest = Patience(), 0
    with suppress(FileNotFoundError, ValueError, LookupError, TypeError):
        last = json.loads(patience(fs.cat_file, f"{log}/_last_checkpoint"))
        oldest = int(last["version"])
    names = [path[len(log) + 1 :] for path in patience(fs.find, log)]
    wanted = [n for n in names if not n[:20].isdigit() or int(n[:20]) >= oldest]
    for folder in {posixpath.dirname(n) for n in wanted}:
        os.makedirs(posixpath.join(target, folder), exist_ok=True)
    patience(fs.get, [f"{log}/{n}" for n in wanted], [f"{target}/{n}" for n in wanted])
