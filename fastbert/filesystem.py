"""URLs to file systems, with errors a user can act on."""

import contextlib
import errno
import re
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from fastbert.errors import FastBertError, InputError, explained, first_line

#: Clients try again by themselves, but not for an hour: a request without an answer ends after
#: half a minute. What the user has configured for fsspec comes first.
_S3_CLIENT = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 2}}
_S3 = ("s3", "s3a")
#: What the user can mend; other faults of a file system may pass.
_WRONG_KINDS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    PermissionError,
    UnicodeError,
)
_WRONG_NUMBERS = {errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG, errno.EROFS}


def open_url(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of `url` and the path in it; InputError if there is no way to reach it."""
    if not url:
        raise InputError("a path is empty, expected one; is a variable of the shell not set?")
    advice = (
        "expected a local path or a URL that fsspec knows, such as s3:// (pip install "
        "'fastbert-ray[s3]'), gs:// ([gcs]) or abfs:// ([azure])"
    )
    with explained(f"cannot open '{redacted(url)}'", advice, ImportError, ValueError):
        fs, path = fsspec.core.url_to_fs(url, **_options(url))
    return fs, path


def _options(url: str) -> dict[str, dict[str, Any]]:
    """By protocol, how file systems that occur in `url` (`zip://x::s3://bucket/y`) are opened."""
    configured = any("config_kwargs" in fsspec.config.conf.get(name, {}) for name in _S3)
    used = [name for name in _S3 if re.search(rf"(^|::){name}://", url)]
    return {} if configured else {name: {"config_kwargs": _S3_CLIENT} for name in used}


@contextlib.contextmanager
def reaching(what: str, advice: str) -> Iterator[None]:
    """Faults of file systems and of their clients become one line that begins with `what`: an
    InputError with `advice` where the user can mend them, a FastBertError where they may pass."""
    try:
        yield
    except FastBertError:
        raise
    except Exception as error:
        said = f"{what}: {first_line(error)}"
        kind = type(error)
        if (
            isinstance(error, _WRONG_KINDS)
            or getattr(error, "errno", None) in _WRONG_NUMBERS
            or re.search("Credential|Auth", kind.__name__)
        ):
            raise InputError(f"{said}; {advice}") from error
        if isinstance(error, OSError) or kind.__module__ != "builtins":
            raise FastBertError(f"{said}; run again when that has passed") from error
        raise


def redacted(url: str) -> str:
    """The URL as it may stand in logs and records: without password, key or signature.

    Those stand before the host (`https://user:password@host/`) or in the query. Bytes of a name
    that are no UTF-8 are escaped.
    """
    if "://" in url and not url.startswith("file://"):  # a local path has neither
        url = re.sub(r"(?<=://)[^/]*:[^/]*@", "", url)
        url = re.sub(r"\?[^?]*=.*", "", url)  # not the wildcard of a glob
    return url.encode("utf-8", "backslashreplace").decode()


def absolute(url: str) -> str:
    """The URL, or the absolute path if it is local, as other processes can use it.

    Raises InputError for this process's memory.
    """
    fs, path = open_url(url)
    if isinstance(fs, MemoryFileSystem):
        raise InputError(
            f"{redacted(url)}: no other process sees this one's memory; use another file system"
        )
    return path if isinstance(fs, LocalFileSystem) else url
