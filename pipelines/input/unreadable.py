"""Shards that cannot be read: the error that says so, and the patience before it is raised."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa

from fastbert.errors import FastBertError
from fastbert.filesystem import is_transient
from pipelines.output.retry import Patience

Result = TypeVar("Result")


class ShardError(FastBertError):
    """One shard cannot be labelled; the message says why. The job goes on without it."""


@contextmanager
def reading(format: str) -> Iterator[None]:
    """Turns what is raised on files that are not, or not any more, of a format into ShardErrors;
    the store's own errors are left as they are if they may pass."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        if is_transient(error):
            raise
        raise ShardError(f"cannot be read as {format}: {error}") from error


def read_patiently(patience: Patience, read: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a call that reads a shard; ShardError if faults of the store do not pass."""
    try:
        return patience(read, *arguments)
    except Exception as error:
        if not is_transient(error):
            raise
        raise ShardError(f"cannot be read, tried {patience.tries} times: {error}") from error
