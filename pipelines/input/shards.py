"""Input shards: finding Parquet files on any file system, and telling one version from another."""

import os
import posixpath
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import InputError
from fastbert.filesystem import open_url, redacted
from pipelines.output.retry import Patience, is_transient


@dataclass(frozen=True)
class Shard:
    """One Parquet file of the input."""

    #: Where it is: an fsspec URL.
    url: str
    #: Its path below the input root, without `.parquet`; names its output.
    name: str
    #: Changes when the content does: the store's hash or etag, else size and time of change.
    version: str
    #: Why it cannot be labelled, if that is plain without opening it.
    problem: str | None = None
    #: How releases before this one may have recorded the same version.
    formerly: str | None = None

    def has_version(self, recorded: str) -> bool:
        """Whether a record of this version is one of the content that is there now."""
        return recorded in (self.version, self.formerly)

    def open(self) -> AbstractContextManager[IO[bytes]]:
        """The file, for reading at random places."""
        fs, path = open_url(self.url)
        opened: AbstractContextManager[IO[bytes]] = fs.open(path, "rb")
        return opened


def find_shards(urls: list[str]) -> list[Shard]:
    """The Parquet files under `urls`, sorted by name.

    A URL is a file, a folder (searched recursively for `*.parquet`) or a glob. Names are relative
    to the folder, to the glob's part before its first wildcard, or to the file's parent. Raises
    InputError where nothing is found and where two files would share a name.
    """
    found: dict[str, Shard] = {}
    names: dict[str, str] = {}
    for url in urls:
        for shard in _expand(url):
            other = found.setdefault(shard.name, shard)
            if other.url != shard.url:
                raise InputError(
                    f"{redacted(other.url)} and {redacted(shard.url)} would both be labelled as "
                    f"'{shard.name}'; pass their common parent folder, or label them to different "
                    "outputs"
                )
            if names.setdefault(shard.url, shard.name) != shard.name:
                raise InputError(
                    f"{redacted(shard.url)} is in --input twice, and would be labelled both as "
                    f"'{names[shard.url]}' and as '{shard.name}'; pass it once"
                )
    return [found[name] for name in sorted(found)]


def _expand(url: str) -> list[Shard]:
    fs, path = open_url(url)
    fs.invalidate_cache()
    patience = Patience()
    if any(wildcard in path for wildcard in "*?[") and not patience(fs.exists, path):
        try:
            files = patience(fs.glob, path, detail=True)
        except ValueError as error:
            raise InputError(f"'{redacted(url)}' is not a glob: {error}") from error
        root = posixpath.dirname(path[: min(path.find(w) for w in "*?[" if w in path)])
    elif patience(fs.isfile, path):
        files, root = {path: patience(fs.info, path)}, posixpath.dirname(path)
    else:
        files, root = patience(_find, fs, path), path.rstrip("/")
        files = {name: info for name, info in files.items() if name.endswith(".parquet")}
    # A listing describes links, not what they lead to.
    files = {n: _target(fs, n, info) if info.get("islink") else info for n, info in files.items()}
    shards = []
    for path, info in files.items():
        if info["type"] != "directory":
            name = path[len(root) :].lstrip("/").removesuffix(".parquet")
            version, formerly = _version(info)
            shards.append(
                Shard(fs.unstrip_protocol(path), name, version, _problem(name, info), formerly)
            )
    if not shards:
        raise InputError(
            f"no Parquet file at '{redacted(url)}'; expected a .parquet file, a folder with some, "
            "or a glob"
        )
    return shards


def _find(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    """Every file below a folder, also behind links to folders: each folder once, under its own
    name rather than a link's, and none that the first one lies in. Raises InputError where a folder
    cannot be listed: `find` of local file systems passes over those, and their shards would be
    taken for removed."""
    if not isinstance(fs, LocalFileSystem) or not fs.isdir(path):
        found: dict[str, dict[str, Any]] = fs.find(path, detail=True)
        return found
    files: dict[str, dict[str, Any]] = {}
    seen = set(map(str, Path(path).resolve().parents))
    folders, links = [path], list[str]()
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        if (place := os.path.realpath(folder)) in seen:
            continue
        seen.add(place)
        try:
            entries = sorted(fs.ls(folder, detail=True), key=itemgetter("name"))
        except FileNotFoundError:
            continue  # removed in this moment
        except PermissionError as error:
            raise InputError(
                f"cannot list '{redacted(folder)}': {error.strerror}; expected a folder that can "
                "be read, or else its shards would be taken for removed"
            ) from error
        for entry in entries:
            name = entry["name"]
            if entry["type"] == "directory":
                folders.append(name)
            elif entry.get("islink") and fs.isdir(name):
                links.append(name)
            else:
                files[name] = entry
    return files


def _target(fs: fsspec.AbstractFileSystem, path: str, link: dict[str, Any]) -> dict[str, Any]:
    """What a link leads to."""
    try:
        info: dict[str, Any] = fs.info(path)
        return info
    except OSError as error:
        if is_transient(error):
            raise
        return link | {"type": "link to nothing"}


#: Longest name of a file, in bytes, that all file systems take.
_LONGEST_NAME = 255


def _problem(name: str, info: dict[str, Any]) -> str | None:
    """Why a shard of this name cannot be labelled. Names become paths of the output: they must
    stay inside it, and no two may become one."""
    if info["type"] != "file":
        what = ", but a link to nothing" if info["type"] == "link to nothing" else ""
        return f"is not a regular file{what}; remove it or put a file there"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    size = len(posixpath.basename(name).encode())
    if {"", ".", ".."} & set(name.split("/")):
        return (
            "its path has an empty part, '.' or '..', which would lead out of the output; rename it"
        )
    if "::" in name or "\0" in name:
        return "its path has '::' or a NUL, which cannot be opened; rename it"
    if re.search(r"\.\d{12,}\.parquet/", name):
        return "a folder of its path is called like a file of the output; rename it"
    if size > _LONGEST_NAME - len(".000000000000.parquet"):
        return f"its name is too long: {size} bytes without .parquet, expected at most 234"
    return None


#: What stores have to tell versions apart, the best first. An etag of Google's changes with the
#: storage class and the metadata, too, so what only Google's has comes before it.
_GOOGLES = ("md5Hash", "crc32c", "generation")
_TAGS = ("ETag", *_GOOGLES, "etag", "content_md5")


def _version(info: dict[str, Any]) -> tuple[str, str | None]:
    """A shard's version, and what it was called before."""
    tags = {k: f"{k.lower()}:{str(info[k]).strip(chr(34))}" for k in _TAGS if info.get(k)}
    for key, version in tags.items():
        more = f" size:{info['size']}" if key == "crc32c" else ""  # of 32 bits only
        return version + more, tags.get("etag") if key in _GOOGLES else None
    changed = next((info[k] for k in ("mtime", "LastModified", "created") if info.get(k)), None)
    return f"size:{info['size']} changed:{changed}", None
