"""Which files a URL of the input means, and which beside them are passed over.

Spark, Hive, Arrow and Trino take names that begin with `.` or `_` for somebody's own: what a killed
job has left, what an editor, a file manager or a table format keeps. So does this one.
"""

import os
import posixpath
from collections import defaultdict
from collections.abc import Collection, Set
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import InputError
from fastbert.filesystem import is_transient, open_url, redacted
from pipelines.input.formats import NAMES, ending
from pipelines.input.tables import Info, above, current_files
from pipelines.output.retry import Patience

#: Names of files that are being written, copied or fetched, and of checksums.
_UNFINISHED = ("._COPYING_", ".tmp", ".crc", ".inprogress", ".part", ".crdownload")
#: What stands for a folder on object stores.
_MARKERS = ("/", "_$folder$")
#: Of each reason, so many files are named.
_EXAMPLES = 3


@dataclass(frozen=True)
class Listing:
    """The files of one URL, by path, as the file system describes them."""

    fs: AbstractFileSystem
    #: Names are relative to it.
    root: str
    files: dict[str, Info]
    #: Files below the root that are left out, by path: their path below it, and why.
    passed: dict[str, tuple[str, str]]


def list_files(url: str) -> Listing:
    """The shards at a URL: a file, those below a folder with an ending that says their format, or
    what a glob matches.

    Below the folder, or the glob's part before its first wildcard, names that begin with `.` or `_`
    are passed over, except those that the glob asks for and `_x=1`, as Spark names partitions.
    Of a Delta table come the files of its current version. Raises InputError where nothing is
    found, and as `current_files` does.
    """
    fs, path = open_url(url)
    fs.invalidate_cache()
    patience = Patience()
    asked = set[str]()  # what names may begin with
    folder = False
    if any(wildcard in path for wildcard in "*?[") and not patience(fs.exists, path):
        try:
            files = patience(fs.glob, path, detail=True)
        except ValueError as error:
            raise InputError(f"'{redacted(url)}' is not a glob: {error}") from error
        root = posixpath.dirname(path[: min(path.find(w) for w in "*?[" if w in path)])
        asked = {part[:1] for part in path[len(root) :].split("/")}
    elif patience(fs.isfile, path):
        files, root = {path: patience(fs.info, path)}, posixpath.dirname(path)
        asked = {".", "_"}
    else:
        files, root, folder = patience(_find, fs, path), path.rstrip("/"), True
    # A listing describes links, not what they lead to.
    files = {n: _target(fs, n, info) if info.get("islink") else info for n, info in files.items()}
    below = {name: name[len(root) :].lstrip("/") for name in files}
    folders = {name for name, info in files.items() if info["type"] == "directory"}
    files = {n: i for n, i in files.items() if n not in folders and not n.endswith(_MARKERS)}
    unfinished = () if path.endswith(_UNFINISHED) else _UNFINISHED
    reasons = dict.fromkeys(
        folders.difference(*map(above, files)), "folders, not entered by a glob"
    )
    for name in files:
        if _hidden(below[name], asked):
            reasons[name] = "hidden, with a name that begins with . or _"
        elif name.endswith(unfinished):
            reasons[name] = "temporary"
        elif folder and not ending(name):
            reasons[name] = f"not named as {NAMES}"
    if folder and (beside := _beside(files.keys() - reasons)):
        reasons |= dict.fromkeys(beside, "named .json beside other data")
    current, older = current_files(fs, root, files, files.keys() - reasons, folder)
    reasons |= dict.fromkeys(older, "of older versions of a Delta table")
    passed = {n: (below[n] or n, why) for n, why in reasons.items() if n not in current}
    files = {name: info for name, info in (files | current).items() if name not in passed}
    if not files:
        raise InputError(
            f"no {NAMES} at '{redacted(url)}'; expected a file of such a format (.parquet, .arrow, "
            ".jsonl, .csv), a folder with some, or a glob"
            + (f"; passed over {told(passed.values())}" if passed else "")
        )
    return Listing(fs, root, files, passed)


def _beside(names: Set[str]) -> Set[str]:
    """Those that describe the others rather than hold rows: JSON beside files of other formats."""
    json = {name for name in names if name.endswith(".json")}
    return json if names - json else set()


def told(passed: Collection[tuple[str, str]]) -> str:
    """How many files were passed over and why, with examples: one line."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in passed:
        names[reason].append(name)
    parts = (f"{len(some):,} {reason} ({_few(some)})" for reason, some in sorted(names.items()))
    return f"{len(passed):,} of the input's files: {'; '.join(parts)}"


def _few(names: list[str]) -> str:
    """Some of the names, of as many endings as there are."""
    unlike = {posixpath.splitext(name)[1]: name for name in reversed(names)}
    some = list(dict.fromkeys([*reversed(unlike.values()), *names]))[:_EXAMPLES]
    return ", ".join(map(redacted, some)) + (", …" if len(names) > len(some) else "")


def _hidden(name: str, asked: set[str]) -> bool:
    """Whether a part of a path is one that others keep for themselves."""
    return any(
        part[:1] in {".", "_"} - asked
        and part not in (".", "..")
        and not (part[0] == "_" and "=" in part)
        for part in name.split("/")
    )


def _find(fs: AbstractFileSystem, path: str) -> dict[str, Info]:
    """Every file below a folder, also behind links to folders: each folder once, under its own
    name rather than a link's, and none that the first one lies in. Raises PermissionError where
    `find` of local file systems passes over a folder, whose shards would be taken for removed."""
    if not isinstance(fs, LocalFileSystem) or not fs.isdir(path):
        found: dict[str, Info] = fs.find(path, detail=True)
        return found
    files: dict[str, Info] = {}
    seen = set(map(str, Path(path).resolve().parents))
    folders = [path]
    while folders:
        folder = folders.pop()
        if (place := os.path.realpath(folder)) in seen:
            continue
        seen.add(place)
        try:
            entries = sorted(fs.ls(folder, detail=True), key=itemgetter("name"))
        except FileNotFoundError:
            continue  # removed in this moment
        for entry in entries:
            name = entry["name"]
            if entry["type"] == "directory":
                folders.append(name)
            elif entry.get("islink") and fs.isdir(name):
                folders.insert(0, name)  # after all that have the name themselves
            else:
                files[name] = entry
    return files


def _target(fs: AbstractFileSystem, path: str, link: Info) -> Info:
    """What a link leads to; itself where that is nothing."""
    try:
        return dict(fs.info(path))
    except OSError as error:
        if is_transient(error):
            raise
        return link
