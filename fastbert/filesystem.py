"""URLs to file systems, with errors a user can act on."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from fastbert.errors import FastBertError, InputError, explained, first_line

#: Clients retry by themselves, but not for an hour: a request without an answer ends after half a
#: minute. The user's configuration of fsspec takes precedence.
_S3_CLIENT = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 2}}
_S3 = ("s3", "s3a")
#: No room: the disk, or the user's quota, is full.
FULL = {errno.ENOSPC, errno.EDQUOT}
#: Errors that may be temporary.
_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EIO,  # s3fs: any other answer, such as 503 SlowDown
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ESTALE,
}
#: The same from HTTP clients, by module and name; none of them is imported here, because each
#: belongs to an optional extra.
_CLIENT_ERRORS = {
    ("aiohttp", "ClientError"),
    ("azure", "ServiceRequestError"),
    ("azure", "ServiceResponseError"),
    ("botocore", "ConnectionError"),
    ("botocore", "HTTPClientError"),
    ("botocore", "IncompleteReadError"),
    ("gcsfs", "HttpError"),  # any other answer, such as 503
    ("httpx", "TransportError"),
    ("httpx2", "TransportError"),
    ("requests", "ConnectionError"),
    ("requests", "Timeout"),
}
#: Clients whose other errors are about the request, such as missing credentials.
_CLIENTS = {module for module, _ in _CLIENT_ERRORS} | {"google"}
#: System errors that the user can fix.
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
    """The file system of `url` and the path in it; raises as `reaching` if it cannot be reached."""
    if not url:
        raise InputError("a path is empty, expected one; is a shell variable unset?")
    advice = (
        "expected a local path or a URL that fsspec knows, such as s3:// (pip install "
        "'fastbert-ray[s3]'), gs:// ([gcs]) or abfs:// ([azure])"
    )
    what = f"cannot open '{redacted(url)}'"
    with explained(what, advice, ImportError, TypeError, ValueError), reaching(what, advice):
        fs, path = fsspec.core.url_to_fs(url, **_options(url))
    return fs, path


def _options(url: str) -> dict[str, dict[str, Any]]:
    """Options, by protocol, for opening the file systems in `url` (`zip://x::s3://bucket/y`)."""
    configured = any("config_kwargs" in fsspec.config.conf.get(name, {}) for name in _S3)
    used = [name for name in _S3 if re.search(rf"(^|::){name}://", url)]
    return {} if configured else {name: {"config_kwargs": _S3_CLIENT} for name in used}


def is_transient(error: BaseException) -> bool:
    """Whether `error` may be temporary."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    return not kinds.isdisjoint(_CLIENT_ERRORS)


def _is_refusal(error: BaseException) -> bool:
    """Whether a file system, or a store's client with its own error, denies access."""
    return (
        isinstance(error, _WRONG_KINDS)
        or type(error).__module__.partition(".")[0] in _CLIENTS
        or (isinstance(error, OSError) and error.errno in {None, *_WRONG_NUMBERS})
    )


@contextlib.contextmanager
def reaching(what: str, advice: str, kept: str = "") -> Iterator[None]:
    """Turn errors of file systems and their clients into one line that begins with `what`.

    An InputError with `advice` if the user can fix them; a FastBertError, with what is `kept`, if a
    disk is full or they may be temporary.
    """
    try:
        yield
    except FastBertError:
        raise
    except Exception as error:
        kind, said = type(error), first_line(error)
        if (code := getattr(error, "errno", None)) in FULL:
            full = f"{what}: {os.strerror(code)}; {kept}make room, and run again"
            raise FastBertError(full) from error
        if is_transient(error):
            raise FastBertError(
                f"{what}: the store does not answer ({kind.__name__}: {said}); {kept}run again "
                "when it is back"
            ) from error
        if _is_refusal(error):
            raise InputError(f"{what}: {said}; {advice}") from error
        if isinstance(error, OSError) or kind.__module__ != "builtins":
            raise FastBertError(f"{what}: {said}; {kept}run again later") from error
        raise


def redacted(url: str) -> str:
    """The URL for logs and records: without password, key or signature.

    Those are before the host (`https://user:password@host/`) or in the query. Bytes of a name that
    are not UTF-8 are escaped.
    """
    if "://" in url and not url.startswith("file://"):  # local paths have none
        url = re.sub(r"(?<=://)[^/]*:[^/]*@", "", url)
        url = re.sub(r"\?[^?]*=.*", "", url)  # not the wildcard of a glob
    return url.encode("utf-8", "backslashreplace").decode()


def absolute(url: str) -> str:
    """The URL, or the absolute path if it is local, for use in other processes.

    Raises InputError for this process's memory.
    """
    fs, path = open_url(url)
    if isinstance(fs, MemoryFileSystem):
        raise InputError(
            f"{redacted(url)}: other processes cannot access this one's memory; use another file "
            "system"
        )
    return path if isinstance(fs, LocalFileSystem) else url
