"""What passes is tried again, what does not is not."""

import errno

import aiohttp
import botocore.exceptions
import pyarrow as pa
import pytest

from fastbert.errors import InputError
from fastbert.filesystem import is_transient
from pipelines.output.retry import Patience


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        OSError(errno.EIO, "SlowDown"),
        aiohttp.ClientPayloadError(),
        botocore.exceptions.EndpointConnectionError(endpoint_url="x"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="x"),
    ],
)
def test_outages_pass(error):
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "x"),
        PermissionError(errno.EACCES, "x"),
        OSError(errno.ENOSPC, "x"),
        OSError("Couldn't deserialize thrift"),  # Arrow's way to say that a file is broken
        pa.ArrowInvalid("x"),
        InputError("x"),
        botocore.exceptions.NoCredentialsError(),
        KeyError("x"),
    ],
)
def test_mistakes_do_not(error):
    assert not is_transient(error)


def failing(times: int, error: Exception):
    def call(x):
        nonlocal times
        times -= 1
        if times >= 0:
            raise error
        return x

    return call


def test_tries_again_and_counts():
    patience = Patience(tries=4, longest_pause=0)
    assert patience(failing(3, ConnectionError()), "answer") == "answer"
    assert patience(failing(1, TimeoutError()), "answer") == "answer"
    assert patience.retries == 4


def test_gives_up_with_the_error_itself():
    patience = Patience(tries=3, longest_pause=0)
    with pytest.raises(ConnectionError, match="down"):
        patience(failing(3, ConnectionError("down")), 0)
    assert patience.retries == 2


def test_other_errors_come_at_once():
    patience = Patience(tries=3, longest_pause=0)
    with pytest.raises(KeyError):
        patience(failing(1, KeyError()), 0)
    assert patience.retries == 0
