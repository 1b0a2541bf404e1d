"""The output folder on any file system: objects, each written in one atomic step."""

import contextlib
import os
import posixpath
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import InputError
from fastbert.filesystem import is_transient, open_url, reaching, redacted
from pipelines.output.retry import Patience

#: Folder where files of a local output are written before they get their names.
STAGING = "staging"
#: Parquet footers read concurrently; each waits for the store, not for a core.
FOOTER_THREADS = 32
#: Largest file that is fetched whole if only some of its columns are needed.
_AT_ONCE = 16 << 20
#: Paths converted to Arrow strings at a time.
_TOGETHER = 100_000

T = TypeVar("T")


class Created(Enum):
    """Result of `Storage.create`."""

    NOT = "an object exists already"
    PERHAPS = "other processes may also believe that they created it"
    ALONE = "no other process has"


class Damaged(ValueError):
    """A file with invalid content."""


class Storage:
    """Objects by path below one root URL. Calls that fail for a temporary reason are retried.

    All methods raise InputError if this user may not read or write, and FastBertError if the store
    has no room, or does not answer after retries.
    """

    def __init__(self, url: str) -> None:
        """Raises InputError if the URL cannot be reached, or is a pattern."""
        self.url = url.rstrip("/")
        self.fs, root = open_url(self.url)
        self.root = root.rstrip("/")
        if has_magic(self.root):  # for fsspec and DuckDB it would match other folders
            raise InputError(
                f"'{redacted(url)}' is a pattern; expected a folder without any of * ? [ in its "
                "path"
            )
        self.patience = Patience()

    def put(self, path: str, data: bytes) -> None:
        """Publish `data` at `path`, completely or not at all; overwrites an existing object.

        Object stores publish an upload when it is complete. A local disk needs a temporary file,
        outside `table/` because readers read every file there, and a rename. Both are synced, so
        every file visible after a power cut is complete.
        """
        target = posixpath.join(self.root, path)
        with self._reaching("written", path):
            if isinstance(self.fs, LocalFileSystem):
                os.replace(self._staged(target, data), target)
                _sync(os.path.dirname(target))
            else:
                self.patience(self.fs.pipe_file, target, data)

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[str]:
        """For what does not fit the memory: a local file to be written, which is published at
        `path` as `put` does when all went well, and is gone then."""
        local = isinstance(self.fs, LocalFileSystem)
        target = posixpath.join(self.root, path)
        folder = os.path.join(self.root, STAGING) if local else tempfile.gettempdir()
        name = os.path.join(folder, uuid.uuid4().hex)
        try:
            with self._reaching("written", path):
                os.makedirs(folder, exist_ok=True)
                open(name, "xb").close()
            yield name
            with self._reaching("written", path):
                if local:
                    _sync(name)
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    os.replace(name, target)
                    _sync(os.path.dirname(target))
                else:
                    self.patience(self.fs.put_file, name, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def create(self, path: str, data: bytes) -> Created:
        """Publish `data` at `path` as `put` does, unless an object exists there.

        Only one of concurrent calls succeeds, if the store supports it: see `lock.py`.
        """
        target = posixpath.join(self.root, path)
        with self._reaching("written", path):
            if isinstance(self.fs, LocalFileSystem):
                temporary = self._staged(target, data)
                try:
                    return Created.ALONE if _link(temporary, target) else Created.PERHAPS
                except FileExistsError:
                    return Created.NOT
                finally:
                    os.unlink(temporary)
            try:
                self.patience(self.fs.pipe_file, target, data, mode="create")
            except OSError:  # each store has its own error for this
                self.fs.invalidate_cache()
                if not self.patience(self.fs.exists, target):
                    raise
                return Created.NOT
            return Created.PERHAPS

    def _staged(self, target: str, data: bytes) -> str:
        """A synced temporary file with `data`, on the same disk as `target`."""
        staging = os.path.join(self.root, STAGING)
        os.makedirs(staging, exist_ok=True)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = os.path.join(staging, uuid.uuid4().hex)
        _write(temporary, data)
        return temporary

    def clear_staging(self) -> None:
        """Remove temporary files of killed writers; no process may be writing."""
        if isinstance(self.fs, LocalFileSystem):
            with self._reaching("emptied", STAGING), contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(os.path.join(self.root, STAGING)):
                    os.unlink(entry.path)

    def paths(self, folder: str, suffix: str) -> set[str]:
        """Paths, relative to the root, of all objects below `folder` that end in `suffix`."""
        found, odd = self.listing(folder, suffix)
        return {*found.to_pylist(), *odd}

    def listing(self, folder: str, suffix: str) -> tuple[pa.ChunkedArray, list[str]]:
        """The same for millions: as Arrow strings, and a list of those that are not UTF-8."""
        place = posixpath.join(self.root, folder)
        self.fs.invalidate_cache()
        find = _files if isinstance(self.fs, LocalFileSystem) else self.fs.find

        def listed() -> tuple[list[pa.Array], list[str]]:
            parts, odd = [pa.array([], pa.string())], list[str]()
            found = (path[len(self.root) + 1 :] for path in find(place) if path.endswith(suffix))
            while some := list(islice(found, _TOGETHER)):
                if not _is_utf8("".join(some)):
                    odd += [path for path in some if not _is_utf8(path)]
                    some = list(filter(_is_utf8, some))
                parts.append(pa.array(some, pa.string()))
            return parts, odd

        with self._reaching("listed", folder):
            parts, odd = self.patience(listed)
        return pa.chunked_array(parts), odd

    def read(self, paths: list[str]) -> dict[str, bytes]:
        """The objects at `paths`; those that no longer exist are left out."""
        if not paths:
            return {}
        full = {posixpath.join(self.root, path): path for path in paths}
        with self._reaching("read", posixpath.commonpath(paths)):
            found = self.patience(self._read, list(full))
        return {full[path]: data for path, data in found.items()}

    def _read(self, paths: list[str]) -> dict[str, bytes]:
        # From byte 0 on: S3's client makes two requests for whole objects. Empty ones have none.
        parts = self.fs.cat_ranges(paths, [0] * len(paths), [None] * len(paths))
        found = dict(zip(paths, parts, strict=True))
        if again := [path for path, data in found.items() if _failed(data)]:
            found |= self.fs.cat(again, on_error="return")
        for data in filter(_failed, found.values()):
            raise data
        return {path: data for path, data in found.items() if isinstance(data, bytes)}

    def remove(self, path: str) -> None:
        """Delete the object at `path` if there is one."""
        with self._reaching("removed", path), contextlib.suppress(FileNotFoundError):
            self.patience(self.fs.rm_file, posixpath.join(self.root, path))

    def remove_all(self, paths: Sequence[str]) -> None:
        """Delete the objects at `paths`, in batches."""
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            deque(pool.map(self.remove, paths), maxlen=0)

    def footer(self, path: str) -> pq.FileMetaData | None:
        """The footer of a Parquet file; None if the file is gone, or not Parquet."""
        try:
            return self._parquet(path, lambda file: file.metadata)
        except Damaged:
            return None

    def columns(self, path: str, names: list[str]) -> pa.Table | None:
        """The existing columns of these names of a Parquet file; None if the file is gone.

        Raises Damaged if it is not Parquet.
        """
        return self._parquet(path, lambda file: file.read(names), _AT_ONCE)

    def _parquet(
        self, path: str, read: Callable[[pq.ParquetFile], T], at_once: int = 0
    ) -> T | None:
        """The result of `read` on a Parquet file; a file of up to `at_once` bytes is fetched
        whole."""

        def opened() -> T:
            with self.fs.open(posixpath.join(self.root, path), "rb") as file:
                small = file.seek(0, os.SEEK_END) <= at_once
                file.seek(0)
                source = pa.BufferReader(file.read()) if small else file
                return read(
                    pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
                )

        damage: Exception
        with self._reaching("read", path):
            try:
                return self.patience(opened)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno is not None or is_transient(error):
                    raise
                damage = error  # Arrow's
            except (pa.ArrowException, ValueError) as error:
                damage = error
        raise Damaged(str(damage)) from damage

    def _reaching(self, done: str, path: str) -> contextlib.AbstractContextManager[None]:
        """`done` names the operation on `path` that failed."""
        return reaching(
            f"'{redacted(self.url)}/{path}' cannot be {done}",
            "expected a folder, or a bucket, that this user may read and write",
            kept="what is committed is kept: ",
        )


def to_parquet(table: pa.Table, facts: dict[str, str] | None = None) -> bytes:
    """A table as the content of a Parquet file, with `facts` in its key-value metadata. Metadata of
    the table's schema is written twice, the second time for Arrow."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(facts or {})
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _files(place: str) -> Iterator[str]:
    """All files below a local folder. fsspec's `find` reads the size of each, and silently skips
    folders that may not be listed."""

    def complain(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # removed meanwhile, or not yet created
            raise error

    found = os.walk(place, onerror=complain)
    return (posixpath.join(folder, name) for folder, _, names in found for name in names)


def _failed(data: object) -> bool:
    """Whether `data` is an error other than a missing object; below a file there is none."""
    absent = isinstance(data, FileNotFoundError | NotADirectoryError)
    return isinstance(data, Exception) and not absent


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write(path: str, data: bytes) -> None:
    """Write a new local file and sync it, or remove it."""
    with open(path, "xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:  # no room: leave the remaining space to others
            os.unlink(path)
            raise


def _link(path: str, name: str) -> bool:
    """Give a local file another name; FileExistsError if that exists. Returns whether it is a link:
    mounted buckets and shares get a copy, which readers may see partially written."""
    try:
        os.link(path, name)
    except FileExistsError:
        raise
    except OSError:
        _write(name, Path(path).read_bytes())
        return False
    return True


def _sync(path: str) -> None:
    """A local file or folder that others have written."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
