"""Finding the rows that make a computation fail, so that their neighbours need not."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fastbert.errors import Stopped

Result = TypeVar("Result")
Rows = np.ndarray[Any, np.dtype[np.int64]]


def isolate(
    run: Callable[[Rows], Result], rows: Rows
) -> tuple[list[tuple[Rows, Result]], dict[int, str]]:
    """`run` over all of `rows`; where it raises, over each half of them, down to single rows.

    Returns (rows, result) pairs in the order of `rows`, and why each row that fails alone does.
    """
    try:
        return [(rows, run(rows))], {}
    except BaseException as error:
        # Panics of Rust extensions are BaseExceptions; these are not failures of a row.
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | Stopped):
            raise
        if len(rows) <= 1:
            said = " ".join(str(error).split())[:200]
            return [], {int(row): f"{type(error).__name__}: {said}" for row in rows}
    middle = len(rows) // 2
    first, first_errors = isolate(run, rows[:middle])
    second, second_errors = isolate(run, rows[middle:])
    return first + second, first_errors | second_errors
