"""Folders that are tables: a log, and not the folder, says which of their files count.

Read as plain files, they give back what was deleted, and what was rewritten twice.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fsspec import AbstractFileSystem

from fastbert.errors import InputError
from fastbert.filesystem import redacted
from pipelines.input.delta import PLAIN, delta_files
from pipelines.output.retry import Patience, is_transient
from pipelines.output.storage import FOOTER_THREADS

Info = dict[str, Any]

#: Type of a file that a log names and nobody finds, beside the types of fsspec.
MISSING = "missing"
#: By format, the folder of a table that holds its log, and how files in it are called. Delta comes
#: first: its tables may also carry the others' metadata.
_LOGS = {
    "a Delta table": ("_delta_log", re.compile(r"\d{20}\..*(json|parquet)|_last_checkpoint")),
    "a Hudi table": (".hoodie", re.compile(r"hoodie\.properties")),
    "a Paimon table": ("snapshot", re.compile(r"snapshot-\d+")),
    "an Iceberg table": ("metadata", re.compile(r"(v\d+|\d{5}-.*)\.metadata\.json(\.gz)?")),
}
_DELTA = next(iter(_LOGS))


def current_files(
    fs: AbstractFileSystem,
    root: str,
    files: dict[str, Info],
    folder: bool,
    hidden: Callable[[str], bool],
) -> dict[str, Info | None]:
    """Of all files that lie in Delta tables, what the file system says, or None where a file is not
    one of the table's current version.

    `files` were found below `root`, and are all that are there if it is a `folder`; the tables may
    also lie around it. Raises InputError for Delta tables that plain reading would get wrong, and
    for those of other formats.
    """
    tables = _tables(fs, root, files, folder)
    governed: dict[str, list[str]] = defaultdict(list)
    for path in files if tables else []:
        table = next((each for each in above(path) if each in tables), None)
        if table is not None and (path.endswith(".parquet") or not folder):
            governed[table].append(path)
    found: dict[str, Info | None] = {}
    for table, paths in governed.items():
        if all(map(hidden, paths)):
            continue
        if tables[table] != _DELTA:
            raise InputError(
                f"'{redacted(table)}' is {tables[table]}, whose log says which of its files count; "
                f"expected plain Parquet or a Delta table; {PLAIN}"
            )
        current = {f"{table}/{path}" for path in delta_files(fs, table)}
        found |= {path: None for path in paths if path not in current and not hidden(path)}
        found |= {path: files[path] for path in current & files.keys()}
        if folder:
            missing = {path for path in current - files.keys() if path.startswith(f"{root}/")}
            found |= {path: _info(fs, path) for path in missing}
    return found


def _tables(
    fs: AbstractFileSystem, root: str, files: Iterable[str], folder: bool
) -> dict[str, str]:
    """The tables that files may belong to: folder -> format."""
    places = set(above(root))  # a folder's own listing has its log
    if not folder:
        places |= {root} | {place for path in files for place in above(path)}
    places = {place for place in places if place.strip("/")}
    if "http" in fs.protocol:  # servers list what they want, or answer anything
        places = set()
    asked = [(place, kind) for place in places for kind in _LOGS]
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        there = list(pool.map(lambda each: _has_log(fs, *each), asked))
    found = [each for each, yes in zip(asked, there, strict=True) if yes]
    for path in files if folder else []:
        log, name = posixpath.split(path)
        place, log = posixpath.split(log)
        found += [(place, kind) for kind, (its, names) in _LOGS.items()
                  if log == its and names.fullmatch(name)]  # fmt: skip
    rank = list(_LOGS).index
    return dict(sorted(set(found), key=lambda each: rank(each[1]), reverse=True))


def above(path: str) -> Iterator[str]:
    """The folders that a path lies in, the nearest first."""
    while (folder := posixpath.dirname(path)) != path:
        yield folder
        path = folder


def _has_log(fs: AbstractFileSystem, folder: str, kind: str) -> bool:
    log, names = _LOGS[kind]
    try:
        listed = Patience()(fs.ls, f"{folder}/{log}", detail=False)
    except (OSError, ValueError, NotImplementedError) as error:
        if is_transient(error):
            raise
        return False  # it is not there, or is above all that may be seen
    return any(names.fullmatch(posixpath.basename(path)) for path in listed)


def _info(fs: AbstractFileSystem, path: str) -> Info:
    """Of a file that a log has named since the folder was listed, or wrongly."""
    try:
        info: Info = Patience()(fs.info, path)
    except FileNotFoundError:
        return {"type": MISSING, "size": None}
    return info
