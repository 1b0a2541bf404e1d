"""The output folder on any file system: whole objects, written in one atomic step."""

import contextlib
import os
import posixpath
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import InputError
from fastbert.filesystem import is_transient, open_url, reaching, redacted
from pipelines.output.retry import Patience

#: Where files of a local output are written before they appear under their names.
STAGING = "staging"
#: Parquet footers read at the same time; each waits for the store, not for a core.
FOOTER_THREADS = 32


class Storage:
    """Objects by path below one root URL. What fails for a passing reason is tried again.

    All methods raise InputError where this user cannot write or read, and FastBertError where the
    store has no room, or does not answer in the end.
    """

    def __init__(self, url: str) -> None:
        """InputError if the URL cannot be reached, or is a pattern."""
        self.url = url.rstrip("/")
        self.fs, root = open_url(self.url)
        self.root = root.rstrip("/")
        if has_magic(self.root):  # fsspec and DuckDB would take other folders for it, too
            raise InputError(
                f"'{redacted(url)}' is a pattern; expected a folder without any of * ? [ in its "
                "path"
            )
        self.patience = Patience()

    def put(self, path: str, data: bytes) -> None:
        """Publish `data` at `path`, whole or not at all, over whatever was there.

        Object stores publish an upload when it is complete. A local disk needs a temporary file,
        which lies outside `table/` because readers take every file there for data, and a rename;
        both are synced, so what is visible after a power cut is complete.
        """
        target = posixpath.join(self.root, path)
        with self._reaching("written", path):
            if isinstance(self.fs, LocalFileSystem):
                os.replace(self._staged(target, data), target)
                _sync_folder(os.path.dirname(target))
            else:
                self.patience(self.fs.pipe_file, target, data)

    def create(self, path: str, data: bytes) -> bool:
        """Publish `data` at `path` as `put` does, but only if nothing is there; whether it was.

        Of several at the same time one succeeds, where the store can do that: see `lock.py`.
        """
        target = posixpath.join(self.root, path)
        with self._reaching("written", path):
            if isinstance(self.fs, LocalFileSystem):
                temporary = self._staged(target, data)
                try:
                    _link(temporary, target)
                except FileExistsError:
                    return False
                finally:
                    os.unlink(temporary)
                return True
            try:
                self.patience(self.fs.pipe_file, target, data, mode="create")
            except OSError:  # the reason is named differently by each store
                self.fs.invalidate_cache()
                if not self.patience(self.fs.exists, target):
                    raise
                return False
            return True

    def _staged(self, target: str, data: bytes) -> str:
        """A synced temporary file with `data`, on the same disk as `target`."""
        staging = os.path.join(self.root, STAGING)
        os.makedirs(staging, exist_ok=True)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = os.path.join(staging, uuid.uuid4().hex)
        _write(temporary, data)
        return temporary

    def clear_staging(self) -> None:
        """Remove temporary files of writers that were killed; nobody may be writing."""
        if isinstance(self.fs, LocalFileSystem):
            with self._reaching("emptied", STAGING), contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(os.path.join(self.root, STAGING)):
                    os.unlink(entry.path)

    def paths(self, folder: str, suffix: str) -> set[str]:
        """Paths, relative to the root, of all objects below `folder` that end in `suffix`."""
        place = posixpath.join(self.root, folder)
        self.fs.invalidate_cache()
        find = _files if isinstance(self.fs, LocalFileSystem) else self.fs.find
        with self._reaching("listed", folder):
            found = self.patience(find, place)
        return {path[len(self.root) + 1 :] for path in found if path.endswith(suffix)}

    def read(self, paths: list[str]) -> dict[str, bytes]:
        """The objects at `paths`; those that do not exist any more are left out."""
        if not paths:
            return {}
        full = {posixpath.join(self.root, path): path for path in paths}
        with self._reaching("read", posixpath.commonpath(paths)):
            found = self.patience(self._read, list(full))
        return {full[path]: data for path, data in found.items()}

    def _read(self, paths: list[str]) -> dict[str, bytes]:
        found = self.fs.cat(paths, on_error="return")
        for data in found.values():
            # Below a file there is nothing, either.
            absent = isinstance(data, FileNotFoundError | NotADirectoryError)
            if isinstance(data, Exception) and not absent:
                raise data
        return {path: data for path, data in found.items() if isinstance(data, bytes)}

    def remove(self, path: str) -> None:
        """Delete the object at `path` if there is one."""
        with self._reaching("removed", path), contextlib.suppress(FileNotFoundError):
            self.patience(self.fs.rm_file, posixpath.join(self.root, path))

    def footer(self, path: str) -> pq.FileMetaData | None:
        """The footer of a Parquet file; None if it is gone, or no Parquet."""

        def read() -> pq.FileMetaData:
            with self.fs.open(posixpath.join(self.root, path), "rb") as file:
                return pq.read_metadata(file)

        with self._reaching("read", path):
            try:
                return self.patience(read)
            except (FileNotFoundError, pa.ArrowInvalid):
                return None
            except OSError as error:
                if error.errno is not None or is_transient(error):
                    raise
                return None  # Arrow's, of a footer that is damaged

    def _reaching(self, done: str, path: str) -> contextlib.AbstractContextManager[None]:
        """`done` is what cannot be done at `path`."""
        return reaching(
            f"'{redacted(self.url)}/{path}' cannot be {done}",
            "expected a folder, or a bucket, that this user may read and write",
            kept="what is committed is kept: ",
        )


def to_parquet(table: pa.Table, facts: dict[str, str] | None = None) -> bytes:
    """A table as the content of a Parquet file, with `facts` among its key-value metadata. Those of
    the table's schema are written twice, the second time for Arrow."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(facts or {})
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _files(place: str) -> list[str]:
    """All files below a local folder. fsspec's `find` asks for the size of each, and passes over
    folders that may not be listed."""

    def complain(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # vanished meanwhile, or not there yet
            raise error

    found = os.walk(place, onerror=complain)
    return [posixpath.join(folder, name) for folder, _, names in found for name in names]


def _write(path: str, data: bytes) -> None:
    """A new local file, synced, or none."""
    with open(path, "xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:  # no room: leave what there is to others
            os.unlink(path)
            raise


def _link(path: str, name: str) -> None:
    """Give a local file another name; FileExistsError if that is taken. Mounted buckets and shares
    know no links: they get a copy, of which readers may see a part."""
    try:
        os.link(path, name)
    except FileExistsError:
        raise
    except OSError:
        _write(name, Path(path).read_bytes())


def _sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
