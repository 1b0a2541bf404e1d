"""Retries of calls to a store, for temporary faults.

Most clients retry by themselves, for seconds. A nightly job can wait a little longer.
"""

import logging

import tenacity

from fastbert.filesystem import is_transient

log = logging.getLogger(__name__)

#: Number of attempts, and the longest pause between two, in seconds.
_TRIES, _LONGEST_PAUSE = 6, 20.0


class Patience(tenacity.Retrying):
    """Retries calls that fail for a temporary reason, and counts the retries. Returns the result of
    the call, and raises its last error if it keeps failing, or any other error at once."""

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
