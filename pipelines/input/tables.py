"""Folders that are tables: their log, and not the folder, lists the valid files.

Read as plain files, they would return deleted rows, and rewritten rows twice.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

from fsspec import AbstractFileSystem

from fastbert.errors import InputError
from fastbert.filesystem import is_transient, redacted
from pipelines.input.delta import PLAIN, delta_files
from pipelines.output.retry import Patience
from pipelines.output.storage import FOOTER_THREADS

Info = dict[str, Any]

#: Type of a file that a log names and that does not exist, beside fsspec's types.
MISSING = "missing"
#: By format, the folder of a table that holds its log, and the paths of files in it. Delta comes
#: last and takes precedence: its tables may also have metadata of the others.
_LOGS = {
    "a Paimon table": ("snapshot", r"snapshot-\d+"),
    "an Iceberg table": ("metadata", r"(v\d+|\d{5}-[^/]*)\.metadata\.json(\.gz)?"),
    "a Hudi table": (".hoodie", r"hoodie\.properties"),
    "a Delta table": ("_delta_log", r"\d{20}\.[^/]*(json|parquet)|_last_checkpoint"),
}


def current_files(
    fs: AbstractFileSystem,
    root: str,
    files: dict[str, Info],
    shards: Iterable[str],
    folder: bool,
) -> tuple[dict[str, Info], set[str]]:
    """For the Delta tables that contain `shards`: the files of the current version, as the file
    system describes them, and the shards that are not among these.

    `files`, shards and others, were found below `root`; if it is a `folder`, they are all of its
    files; a table may also contain the root. Raises InputError for Delta tables that plain reading
    would get wrong, and for tables of other formats.
    """
    tables = _tables(fs, root, files, folder)
    governed: dict[str, set[str]] = defaultdict(set)
    for path in shards if tables else ():
        if table := next((each for each in above(path) if each in tables), None):
            governed[table].add(path)
    current: dict[str, Info] = {}
    older: set[str] = set()
    for table, paths in governed.items():
        if tables[table] != "a Delta table":
            raise InputError(
                f"'{redacted(table)}' is {tables[table]}, whose log lists its valid files; "
                f"expected plain Parquet or a Delta table; {PLAIN}"
            )
        named = {f"{table}/{path}" for path in delta_files(fs, table)}
        older |= paths - named
        for path in named:
            if path in files or (folder and path.startswith(f"{root}/")):
                current[path] = files.get(path) or _info(fs, path)
    return current, older


def _tables(
    fs: AbstractFileSystem, root: str, files: Iterable[str], folder: bool
) -> dict[str, str]:
    """The tables that the files may belong to: folder -> format."""
    places = set(above(root))  # the listing of a folder itself has its log
    if not folder:
        places |= {root, *(place for path in files for place in above(path))}
    if "http" in fs.protocol:  # listings of web servers are unreliable
        places = set()
    asked = [f"{place}/{log}" for place in places if place.strip("/") for log, _ in _LOGS.values()]
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        seen = [*(files if folder else ()), *chain(*pool.map(partial(_listed, fs), asked))]
    return {
        match[1]: kind
        for kind, (log, names) in _LOGS.items()
        for match in map(re.compile(f"(?s)(.*)/{log}/({names})").fullmatch, seen)
        if match
    }


def above(path: str) -> Iterator[str]:
    """The parent folders of a path, the nearest first."""
    while (folder := posixpath.dirname(path)) != path:
        yield folder
        path = folder


def _listed(fs: AbstractFileSystem, folder: str) -> list[str]:
    """The paths in a folder; none if it does not exist or may not be listed."""
    try:
        return list(Patience()(fs.ls, folder, detail=False))
    except (OSError, ValueError, NotImplementedError) as error:
        if is_transient(error):
            raise
        return []


def _info(fs: AbstractFileSystem, path: str) -> Info:
    """Info on a file that a log names, added since the listing, or missing."""
    try:
        info: Info = Patience()(fs.info, path)
    except FileNotFoundError:
        return {"type": MISSING, "size": None}
    return info
