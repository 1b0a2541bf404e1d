"""Unreadable shards: their error, and the attempts before it is raised."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa

from fastbert.errors import FastBertError
from fastbert.filesystem import is_transient
from pipelines.output.retry import Patience

Result = TypeVar("Result")


class ShardError(FastBertError):
    """One shard cannot be labelled; the message says why. The job continues without it."""


@contextmanager
def reading(format: str) -> Iterator[None]:
    """Turn errors that files of a wrong format raise into ShardErrors; the store's own errors stay
    as they are if they may be temporary."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        if is_transient(error):
            raise
        raise ShardError(f"cannot be read as {format}: {error}") from error


def read_patiently(patience: Patience, read: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a call that reads a shard; ShardError if faults of the store persist."""
    try:
        return patience(read, *arguments)
    except Exception as error:
        if not is_transient(error):
            raise
        raise ShardError(f"cannot be read, tried {patience.tries} times: {error}") from error
