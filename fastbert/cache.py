"""Local copies of remote files: one download of each version for all processes of a user.

They are in the user's cache directory (XDG_CACHE_HOME, or ~/.cache), or, if that cannot be used, in
the directory for temporary files. Other users may enter neither, because files there are loaded.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import platformdirs
from filelock import FileLock, Timeout

from fastbert.errors import FastBertError
from fastbert.filesystem import reaching

#: Copies that stay: this number of the last used ones, and all used within this time in seconds,
#: because the processes that fetched them may not have read them yet.
_KEPT, _IN_USE = 3, 24 * 3600.0
#: Attempts to copy files that are replaced meanwhile.
_TRIES = 3


def local_copy(
    fs: fsspec.AbstractFileSystem, list_files: Callable[[], list[str]], what: str
) -> Path:
    """A local folder with copies of the files that `list_files` finds, under their base names;
    `what` names them in messages.

    Raises FastBertError if there is no room for them, or if they keep changing.
    """
    root = _root()
    copying = f"cannot copy {what} to {root} (XDG_CACHE_HOME may name another place)"
    for _ in range(_TRIES):
        files = list_files()
        version = _version(fs, files)
        copy, partial = root / version, root / f"{version}.partial"
        with reaching(copying, "pass one that this user may read"), FileLock(_lock(copy)):
            if not copy.exists():
                shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
                partial.mkdir()
                with contextlib.suppress(FileNotFoundError):
                    for name in files:
                        fs.get_file(name, str(partial / os.path.basename(name)))
                if _version(fs, list_files()) != version:  # may mix new and old files
                    shutil.rmtree(partial)
                    continue
                for path in partial.iterdir():  # from now on, files survive a power cut
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
                partial.rename(copy)
            os.utime(copy)
        _evict(root)
        return copy
    raise FastBertError(
        f"{what} changed each of the {_TRIES} times that it was copied; run again when no process "
        "writes there"
    )


def _version(fs: fsspec.AbstractFileSystem, files: list[str]) -> str:
    """A hash that changes with the files."""
    text = "\n".join(f"{name} {fs.ukey(name)}" for name in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lock(copy: Path) -> Path:
    return copy.with_suffix(".lock")


def _evict(root: Path) -> None:
    """Remove copies that were not used for long; skip those in use or removed by another
    process."""
    with contextlib.suppress(OSError):
        copies = sorted(filter(Path.is_dir, root.iterdir()), key=_used, reverse=True)
        for copy in copies[_KEPT:]:
            with contextlib.suppress(OSError, Timeout), FileLock(_lock(copy), timeout=0):
                if time.time() - _used(copy) > _IN_USE:
                    going = copy.with_suffix(".partial")  # never half a copy under its name
                    if copy != going:
                        shutil.rmtree(going, ignore_errors=True)
                        copy.rename(going)
                    shutil.rmtree(going)
                    _lock(copy).unlink()


def _used(copy: Path) -> float:
    return copy.stat().st_mtime


def _root() -> Path:
    """The directory of the copies, which no other user can enter; raises FastBertError if there is
    none, for example because another user created it first."""
    places = [Path(tempfile.gettempdir()) / f"fastbert-{os.getuid()}"]
    with contextlib.suppress(RuntimeError):  # a user without a home
        places.insert(0, Path(platformdirs.user_cache_dir("fastbert")))
    if found := next(filter(_private, places), None):
        return found
    raise FastBertError(
        f"no place for a copy of the checkpoint: expected one of {', '.join(map(str, places))} "
        "that this user can write and others cannot enter (mode 700); set XDG_CACHE_HOME to "
        "another place"
    )


def _private(place: Path) -> bool:
    """Whether it is a directory of this user that no other user can enter; created if missing."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = place.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return place.is_absolute() and ours and not found.st_mode & 0o077 and os.access(place, os.W_OK)
