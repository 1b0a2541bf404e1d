"""How long properties are tried."""

import time
from collections.abc import Callable

import pytest

#: Of the time that `--fuzz-minutes` gives, what each gets.
SHARES = {"plan": 0.2, "ledger": 0.2, "file": 0.3, "x.jsonl": 0.15, "x.csv": 0.15}


@pytest.fixture
def repeat(request) -> Callable[[str, Callable[[], object]], int]:
    """Calls a property once, or again and again for its share of `--fuzz-minutes`."""
    minutes = request.config.getoption("--fuzz-minutes")

    def again(name: str, check: Callable[[], object]) -> int:
        end = time.monotonic() + 60 * minutes * SHARES[name]
        rounds = 0
        while not rounds or time.monotonic() < end:
            check()
            rounds += 1
        return rounds

    return again
