"""Proof that a place can be written, before hours are spent on what is to lie there."""

import contextlib
import logging
import os
import posixpath
import tempfile
import uuid
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import InputError
from fastbert.filesystem import absolute, open_url, reaching, redacted

log = logging.getLogger(__name__)

#: Stores without folders, where making one might make a bucket.
_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}


def check_folder(url: str) -> None:
    """Write and remove a small file in the folder `url`, and whatever it takes to have that.

    Raises InputError where this user cannot write, and FastBertError where a store does not answer.
    """
    _check(url, "folder")


def check_file(url: str) -> None:
    """The same for the folder of a file; nor may a folder have its name."""
    _check(url, "file")


def _check(url: str, kind: str) -> None:
    place = f"'{redacted(url)}'"
    advice = f"pass a {kind} that this user can write"
    absolute(url)  # what is in this process's memory would be lost with it
    fs, path = open_url(url)
    path = path.rstrip("/")
    if any(sign in path for sign in "*?"):
        raise InputError(f"{place} is a pattern; {advice}")
    with reaching(f"cannot write {place}", advice):
        other = fs.isfile if kind == "folder" else fs.isdir
        if other(path):
            raise InputError(f"{place} is a {'file' if kind == 'folder' else 'folder'}; {advice}")
        folder = path if kind == "folder" else posixpath.dirname(path)
        if not isinstance(fs, LocalFileSystem):
            _check_remote(fs, folder)
        else:
            _check_local(Path(folder))
            if kind == "file" and os.path.exists(path):
                open(path, "ab").close()


def _check_local(folder: Path) -> None:
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    finally:
        with contextlib.suppress(OSError):  # not there, or in use by now
            for place in missing:
                place.rmdir()


def _check_remote(fs: AbstractFileSystem, folder: str) -> None:
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    makes = protocols.isdisjoint(_BUCKETS) and not fs.exists(folder)
    if makes:
        fs.makedirs(folder, exist_ok=True)
    name = f"{folder}/.{uuid.uuid4().hex}.check"
    fs.pipe_file(name, b"0")
    try:
        fs.rm_file(name)
        if makes:
            fs.rmdir(folder)
    except Exception as error:  # writing is what was asked for
        log.warning("%s was written for proof and cannot be removed: %s", name, error)
