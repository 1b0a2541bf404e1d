"""Checks that a place can be written, before hours of work for it."""

import logging
import os
import posixpath
import tempfile
import uuid

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import InputError
from fastbert.filesystem import absolute, open_url, reaching, redacted

log = logging.getLogger(__name__)

#: Stores without folders, where one path does not show that others can be written.
_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
#: Longest name of a file or folder, in bytes.
_LONGEST_NAME = 255


def check_folder(url: str) -> None:
    """Write and remove a small file in the folder `url`, or in its nearest existing parent.

    Raises InputError if this user cannot write, and FastBertError if a store does not answer.
    """
    _check(url, "folder")


def check_file(url: str) -> None:
    """The same for the folder of a file; also raises InputError if `url` is a folder."""
    _check(url, "file")


def _check(url: str, kind: str) -> None:
    place = f"'{redacted(url)}'"
    advice = f"pass a {kind} that this user can write"
    absolute(url)  # this process's memory would be lost
    fs, path = open_url(url)
    path = path.rstrip("/")
    if any(sign in path for sign in "*?"):
        raise InputError(f"{place} is a pattern; {advice}")
    with reaching(f"cannot write {place}", advice):
        other = fs.isfile if kind == "folder" else fs.isdir
        if other(path):
            raise InputError(f"{place} is a {'file' if kind == 'folder' else 'folder'}; {advice}")
        if any(len(os.fsencode(name)) > _LONGEST_NAME for name in path.split("/")):
            raise InputError(f"{place} has a name of over {_LONGEST_NAME} bytes; {advice}")
        _write(fs, path if kind == "folder" else posixpath.dirname(path))
        if kind == "file" and isinstance(fs, LocalFileSystem) and os.path.exists(path):
            open(path, "ab").close()


def _write(fs: AbstractFileSystem, folder: str) -> None:
    """Write in the folder, or in its nearest existing parent, and leave nothing there."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    if protocols.isdisjoint(_BUCKETS):
        while folder and not fs.lexists(folder):
            folder = posixpath.dirname(folder)
    if isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
        return
    name = f"{folder}/.{uuid.uuid4().hex}.check"
    fs.pipe_file(name, b"0")
    try:
        fs.rm_file(name)
    except Exception as error:  # writing itself worked
        log.warning("%s was written as a test and cannot be removed: %s", name, error)
