"""Isolation of the rows that make a computation fail, so that other rows succeed."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fastbert.errors import FastBertError, Stopped

Result = TypeVar("Result")
Rows = np.ndarray[Any, np.dtype[np.int64]]

#: Errors that rows never cause; they may cause others: panics of Rust are BaseExceptions.
NOT_OF_ROWS = (KeyboardInterrupt, SystemExit, GeneratorExit, Stopped, FastBertError)


def isolate(
    run: Callable[[Rows], Result], rows: Rows, check: Callable[[], object]
) -> tuple[list[tuple[Rows, Result]], dict[int, str]]:
    """Call `run` on all of `rows`; if it raises, on each half of them, down to single rows.

    Returns (rows, result) pairs in the order of `rows`, and the error of each row that fails alone.
    `check` is called when all of `rows` have failed together and when one has failed alone, and
    raises if the machine is at fault, not the row. So a broken machine costs few calls, and b bad
    rows among n cost b * (2 log2(n) + 1) + 2 calls.
    """
    found: list[tuple[Rows, Result]] = []
    failed: dict[int, str] = {}
    waiting = [rows]
    while waiting:
        some = waiting.pop()
        try:
            found.append((some, run(some)))
            continue
        except NOT_OF_ROWS:
            raise
        except BaseException as error:
            why = said(error)
        # After the handler, because the error's frames hold memory that a check may need.
        if some is rows or len(some) == 1:
            check()
        if len(some) <= 1:
            failed |= dict.fromkeys(some.tolist(), why)
        else:
            middle = len(some) // 2
            waiting += [some[middle:], some[:middle]]
    return found, failed


def said(error: BaseException) -> str:
    """An error's kind and message on one line, at most 200 characters of it."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
