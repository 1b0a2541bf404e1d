"""Finding the rows that make a computation fail, so that their neighbours need not."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fastbert.errors import FastBertError, Stopped

Result = TypeVar("Result")
Rows = np.ndarray[Any, np.dtype[np.int64]]

#: What is never a row's failure. All else may be: panics of Rust extensions are BaseExceptions.
NOT_OF_ROWS = (KeyboardInterrupt, SystemExit, GeneratorExit, Stopped, FastBertError)


def isolate(
    run: Callable[[Rows], Result], rows: Rows, check: Callable[[], object]
) -> tuple[list[tuple[Rows, Result]], dict[int, str]]:
    """`run` over all of `rows`; where it raises, over each half of them, down to single rows.

    Returns (rows, result) pairs in the order of `rows`, and why each row that fails alone does.
    Rows are blamed by a machine that works: `check` is called when all of `rows` have failed
    together and when one has failed alone, and raises where the machine is to blame. So a broken
    machine costs few calls, and b bad rows among n cost b * (2 log2(n) + 1) and 2.
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
        # Behind the handler: the error's frames hold memory that a check may need.
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
