"""How long to try again where a store has a fault that passes by itself.

Most clients try again on their own, for seconds. A nightly job can wait a little longer.
"""

import logging

import tenacity

from fastbert.filesystem import is_transient

log = logging.getLogger(__name__)

#: Times a call is made, and the longest pause between two, in seconds.
_TRIES, _LONGEST_PAUSE = 6, 20.0


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
