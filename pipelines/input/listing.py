"""Files at a URL of the input, and files that are skipped.

Names that begin with `.` or `_` are hidden, as in Spark, Hive, Arrow and Trino: remains of killed
jobs, and files of editors, file managers and table formats.
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
#: Objects that stand for folders on object stores.
_MARKERS = ("/", "_$folder$")
#: Files named in a message for each reason.
_EXAMPLES = 3


@dataclass(frozen=True)
class Listing:
    """The files of one URL, by path, as the file system describes them."""

    fs: AbstractFileSystem
    #: Names are relative to this folder.
    root: str
    files: dict[str, Info]
    #: Skipped files below the root, by path: their relative path, and the reason.
    passed: dict[str, tuple[str, str]]


def list_files(url: str) -> Listing:
    """The shards at a URL: a file, files below a folder with a known ending, or matches of a glob.

    Below the folder, or the glob's part before its first wildcard, names that begin with `.` or `_`
    are skipped, except those that the glob asks for and `_x=1`, Spark's names of partitions. A
    Delta table gives the files of its current version. Raises InputError if nothing is found, and
    as `current_files` does.
    """
    fs, path = open_url(url)
    fs.invalidate_cache()
    patience = Patience()
    asked = set[str]()  # allowed beginnings of names
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
    # A listing describes links, not their targets.
    files = {n: _target(fs, n, info) if info.get("islink") else info for n, info in files.items()}
    below = {name: name[len(root) :].lstrip("/") for name in files}
    folders = {name for name, info in files.items() if info["type"] == "directory"}
    files = {n: i for n, i in files.items() if n not in folders and not n.endswith(_MARKERS)}
    unfinished = () if path.endswith(_UNFINISHED) else _UNFINISHED
    reasons = dict.fromkeys(
        folders.difference(*map(above, files)), "folders, which a glob does not enter"
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
            + (f"; passed over {described(passed.values())}" if passed else "")
        )
    return Listing(fs, root, files, passed)


def _beside(names: Set[str]) -> Set[str]:
    """Files that describe others instead of holding rows: JSON beside files of other formats."""
    json = {name for name in names if name.endswith(".json")}
    return json if names - json else set()


def described(passed: Collection[tuple[str, str]]) -> str:
    """Number of skipped files by reason, with examples: one line."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in passed:
        names[reason].append(name)
    parts = (f"{len(some):,} {reason} ({_few(some)})" for reason, some in sorted(names.items()))
    return f"{len(passed):,} of the input's files: {'; '.join(parts)}"


def _few(names: list[str]) -> str:
    """Examples of the names, with many different endings."""
    unlike = {posixpath.splitext(name)[1]: name for name in reversed(names)}
    some = list(dict.fromkeys([*reversed(unlike.values()), *names]))[:_EXAMPLES]
    return ", ".join(map(redacted, some)) + (", …" if len(names) > len(some) else "")


def _hidden(name: str, asked: set[str]) -> bool:
    """Whether a part of a path is hidden."""
    return any(
        part[:1] in {".", "_"} - asked
        and part not in (".", "..")
        and not (part[0] == "_" and "=" in part)
        for part in name.split("/")
    )


def _find(fs: AbstractFileSystem, path: str) -> dict[str, Info]:
    """Every file below a folder, also behind links to folders: each folder once, under its own name
    if possible, and no parent of the first one. Raises PermissionError where `find` of local file
    systems skips a folder, because its shards would count as removed."""
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
            continue  # removed meanwhile
        for entry in entries:
            name = entry["name"]
            if entry["type"] == "directory":
                folders.append(name)
            elif entry.get("islink") and fs.isdir(name):
                folders.insert(0, name)  # after all folders that are not links
            else:
                files[name] = entry
    return files


def _target(fs: AbstractFileSystem, path: str, link: Info) -> Info:
    """A link's target; the link itself if there is none."""
    try:
        return dict(fs.info(path))
    except OSError as error:
        if is_transient(error):
            raise
        return link
