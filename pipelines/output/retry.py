"""Faults of a store that pass by themselves: which they are, and how long to try again.

Most clients try again on their own, for seconds. A nightly job can wait a little longer.
"""

import errno
import logging

import tenacity

log = logging.getLogger(__name__)

#: Times a call is made, and the longest pause between two, in seconds.
_TRIES, _LONGEST_PAUSE = 6, 20.0

_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EIO,  # s3fs: any answer it has no better name for, as 503 SlowDown
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ESTALE,
}
#: Errors of HTTP clients, by module and name; none of them is imported here,
#: because each belongs to an optional extra.
_CLIENT_ERRORS = {
    ("aiohttp", "ClientError"),
    ("azure", "ServiceRequestError"),
    ("azure", "ServiceResponseError"),
    ("botocore", "ConnectionError"),
    ("botocore", "HTTPClientError"),
    ("botocore", "IncompleteReadError"),
    ("gcsfs", "HttpError"),  # what it has no better name for, as 503
}
#: Whose other errors are about what was asked: no credentials, say.
_CLIENTS = {module for module, _ in _CLIENT_ERRORS} | {"google"}


def is_transient(error: BaseException) -> bool:
    """Whether `error` is of the kind that may be gone the next time."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    return not kinds.isdisjoint(_CLIENT_ERRORS)


def is_refusal(error: BaseException) -> bool:
    """Whether a store's client says no in its own words, rather than the system in its."""
    of_client = type(error).__module__.partition(".")[0] in _CLIENTS
    return of_client or (isinstance(error, OSError) and error.errno is None)


class Patience(tenacity.Retrying):
    """Makes calls again that fail for a passing reason, and counts how often that was needed: the
    result of the call, its last error if it keeps failing, any other error at once."""

    def __init__(self, tries: int = _TRIES, longest_pause: float = _LONGEST_PAUSE) -> None:
        self.tries, self.retries = tries, 0
        super().__init__(
            retry=tenacity.retry_if_exception(is_transient),
            stop=tenacity.stop_after_attempt(tries),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=longest_pause),
            before_sleep=self._count,
            reraise=True,
        )

    def _count(self, state: tenacity.RetryCallState) -> None:
        self.retries += 1
        assert state.outcome is not None
        error = state.outcome.exception()
        log.warning("trying again after %s: %s", type(error).__name__, error)
