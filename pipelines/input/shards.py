"""Input shards: find files on any file system, and distinguish their versions."""

import logging
import posixpath
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import IO, Any

from fastbert.errors import InputError, explained
from fastbert.filesystem import open_url, reaching, redacted
from pipelines.input.formats import WITHOUT, format_of
from pipelines.input.formats.format import Format
from pipelines.input.listing import Listing, described, list_files
from pipelines.input.tables import MISSING

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One file of the input."""

    #: An fsspec URL.
    url: str
    #: Its path below the input root, without `.parquet`; names its output.
    name: str
    #: Changes with the content: the store's hash or etag, or size and time of change.
    version: str
    #: The same version as earlier releases may have recorded it.
    formerly: str | None = None
    #: Why it cannot be labelled, if that is known without opening it.
    problem: str | None = None
    #: In bytes, where the file system says so.
    size: int | None = field(default=None, compare=False)

    def has_version(self, recorded: str) -> bool:
        """Whether a recorded version is that of the present content."""
        return recorded in (self.version, self.formerly)

    @property
    def format(self) -> Format:
        """The format that reads it."""
        return format_of(self.url)

    def open(self) -> AbstractContextManager[IO[bytes]]:
        """The file, for reading at random places."""
        fs, path = open_url(self.url)
        opened: AbstractContextManager[IO[bytes]] = fs.open(path, "rb")
        return opened


class Shards(list[Shard]):
    """Shards, sorted by name."""

    #: Files below the input that are not shards.
    passed_over = 0


def find_shards(urls: list[str]) -> Shards:
    """The shards under `urls`, sorted by name.

    A URL is a file, a folder (searched recursively for files with a known ending) or a glob. Names
    are relative to the folder, to the glob's part before its first wildcard, or to the file's
    parent. Skipped files are logged (`listing.py`). Raises InputError if nothing is found, if two
    files would share a name, for tables whose log cannot be followed (`tables.py`), and if this
    user may not list; FastBertError if a store does not answer.
    """
    advice = "expected an existing place that this user may list and read"
    found: dict[str, Shard] = {}
    names: dict[str, str] = {}
    passed: dict[str, tuple[str, str]] = {}
    for url in urls:
        what = f"cannot list '{redacted(url)}'"
        with explained(what, advice, ValueError), reaching(what, advice):
            listing = list_files(url)
        passed |= {listing.fs.unstrip_protocol(n): why for n, why in listing.passed.items()}
        for shard in _shards(listing):
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
    shards = Shards(found[name] for name in sorted(found))
    passed = {url: why for url, why in passed.items() if url not in names}
    shards.passed_over = len(passed)
    if passed:
        log.info("passed over %s", described(passed.values()))
    return shards


def _shards(listing: Listing) -> Iterator[Shard]:
    for path, info in listing.files.items():
        name = path[len(listing.root) :].lstrip("/").removesuffix(WITHOUT)
        url = listing.fs.unstrip_protocol(path)
        problem = _problem(name, info)
        yield Shard(url, name, *_version(info), problem=problem, size=info.get("size"))


#: Longest file name, in bytes, that all file systems allow.
_LONGEST_NAME = 255


def _problem(name: str, info: dict[str, Any]) -> str | None:
    """Why a shard of this name cannot be labelled. Names become paths of the output, so they must
    stay inside it and be distinct."""
    if info["type"] == MISSING:
        return "is missing, but in the log of its Delta table; restore or repair the table"
    if info["type"] != "file":
        what = ", but a broken link" if info.get("islink") else ""
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
        return "a folder of its path has the name of a file of the output; rename it"
    if size > _LONGEST_NAME - len(".000000000000.parquet"):
        return f"its name is too long: {size} bytes without .parquet, expected at most 234"
    return None


#: Attributes by which stores distinguish versions, the best first. Google's etag also changes with
#: storage class and metadata, so attributes that only Google has come first.
_GOOGLES = ("md5Hash", "crc32c", "generation")
_TAGS = ("ETag", *_GOOGLES, "etag", "content_md5")


def _version(info: dict[str, Any]) -> tuple[str, str | None]:
    """A shard's version, and its form in earlier releases."""
    tags = {k: f"{k.lower()}:{str(info[k]).strip(chr(34))}" for k in _TAGS if info.get(k)}
    for key, version in tags.items():
        more = f" size:{info['size']}" if key == "crc32c" else ""  # of 32 bits only
        return version + more, tags.get("etag") if key in _GOOGLES else None
    changed = next((info[k] for k in ("mtime", "LastModified", "created") if info.get(k)), None)
    return f"size:{info['size']} changed:{changed}", None
