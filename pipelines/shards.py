"""Input shards: finding Parquet files on any file system, and telling one version from another."""

import posixpath
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any

import fsspec

from fastbert.errors import FastBertError, InputError
from fastbert.filesystem import open_url


class ShardError(FastBertError):
    """One shard cannot be labelled; the message says why. The job goes on without it."""


@dataclass(frozen=True)
class Shard:
    """One Parquet file of the input."""

    #: Where it is: an fsspec URL.
    url: str
    #: Its path below the input root, without `.parquet`; names its output.
    name: str
    #: Changes when the content does: the store's etag, else size and time of change.
    version: str

    def open(self) -> AbstractContextManager[IO[bytes]]:
        """The file, for reading at random places."""
        opened: AbstractContextManager[IO[bytes]] = fsspec.open(self.url, "rb")
        return opened


def find_shards(urls: list[str]) -> list[Shard]:
    """The Parquet files under `urls`, sorted by name.

    A URL is a file, a folder (searched recursively for `*.parquet`) or a glob. Names are relative
    to the folder, to the glob's part before its first wildcard, or to the file's parent. Raises
    InputError where nothing is found and where two files would share a name.
    """
    found: dict[str, Shard] = {}
    for url in urls:
        for shard in _expand(url):
            other = found.setdefault(shard.name, shard)
            if other.url != shard.url:
                raise InputError(
                    f"{other.url} and {shard.url} would both be labelled as '{shard.name}'; "
                    "pass their common parent folder, or label them to different outputs"
                )
    return [found[name] for name in sorted(found)]


def _expand(url: str) -> list[Shard]:
    fs, path = open_url(url)
    fs.invalidate_cache()
    if any(wildcard in path for wildcard in "*?["):
        files = fs.glob(path, detail=True)
        root = posixpath.dirname(path[: min(path.find(w) for w in "*?[" if w in path)])
    elif fs.isfile(path):
        files, root = {path: fs.info(path)}, posixpath.dirname(path)
    else:
        files, root = fs.find(path, detail=True), path.rstrip("/")
        files = {name: info for name, info in files.items() if name.endswith(".parquet")}
    # A listing describes links, not what they lead to.
    files = {n: fs.info(n) if info.get("islink") else info for n, info in files.items()}
    shards = [
        Shard(fs.unstrip_protocol(name), _relative(name, root), _version(info))
        for name, info in files.items()
        if info["type"] == "file"
    ]
    if not shards:
        raise InputError(
            f"no Parquet file at '{url}'; expected a .parquet file, a folder with some, or a glob"
        )
    return shards


def _relative(path: str, root: str) -> str:
    return path[len(root) :].lstrip("/").removesuffix(".parquet")


def _version(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(key):
            return f"{key.lower()}:{str(info[key]).strip(chr(34))}"
    changed = next((info[k] for k in ("mtime", "LastModified", "created") if info.get(k)), None)
    return f"size:{info['size']} changed:{changed}"
