"""The output folder on any file system: whole objects, written in one atomic step."""

import contextlib
import os
import posixpath
import uuid

from fsspec.implementations.local import LocalFileSystem

from fastbert.filesystem import open_url


class Storage:
    """Objects by path below one root URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.fs, root = open_url(self.url)
        self.root = root.rstrip("/")

    def put(self, path: str, data: bytes) -> None:
        """Publish `data` at `path`, whole or not at all, over whatever was there.

        Object stores publish an upload when it is complete. A local disk needs a temporary file,
        which lies outside `table/` because readers take every file there for data, and a rename;
        both are synced, so what is visible after a power cut is complete.
        """
        target = posixpath.join(self.root, path)
        if not isinstance(self.fs, LocalFileSystem):
            self.fs.pipe_file(target, data)
            return
        staging = os.path.join(self.root, "staging")
        os.makedirs(staging, exist_ok=True)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = os.path.join(staging, uuid.uuid4().hex)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        folder = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def paths(self, folder: str, suffix: str) -> set[str]:
        """Paths, relative to the root, of all objects below `folder` that end in `suffix`."""
        self.fs.invalidate_cache()
        found = self.fs.find(posixpath.join(self.root, folder))
        return {path[len(self.root) + 1 :] for path in found if path.endswith(suffix)}

    def read(self, paths: list[str]) -> dict[str, bytes]:
        """The objects at `paths`; those that do not exist any more are left out."""
        full = {posixpath.join(self.root, path): path for path in paths}
        found = self.fs.cat(list(full), on_error="return") if full else {}
        for data in found.values():
            if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                raise data
        return {full[path]: data for path, data in found.items() if isinstance(data, bytes)}

    def remove(self, path: str) -> None:
        """Delete the object at `path` if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(posixpath.join(self.root, path))
