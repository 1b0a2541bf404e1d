"""Errors a caller can act on, and the exit code that each gives a command.

    FastBertError     an expected failure                                                  1
    ├── InputError    an option, path, checkpoint or table is wrong; nothing was done      2
    │   └── NotProven   a promise cannot be proven on these rows
    └── MachineError  the machine, its memory or its libraries fail; not caused by input   1
    Stopped           the process was asked to end                                         1

Messages state what was found, what was expected and what to do. Any other error is a bug and keeps
its traceback.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class FastBertError(Exception):
    """Base of all errors that this project raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        """One line, even if names in it have line breaks."""
        return " ".join(super().__str__().splitlines())


class InputError(FastBertError):
    """The user's input cannot be used; the message says what to pass instead."""

    exit_code = 2


class NotProven(InputError):
    """The rows are too few for a promise, or nothing faster than full depth keeps it."""


class MachineError(FastBertError):
    """The machine, its memory or its libraries fail, with any input."""


class Stopped(BaseException):
    """The process was asked to end, by SIGTERM or Ctrl-C. Like KeyboardInterrupt it is no
    `Exception`, so that handlers do not take it for a failure of the call."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """The first line of an error's message, and the next one if it ends with a colon; libraries
    append pages of advice."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    said = " ".join(lines[: 1 + lines[0].endswith(":")])
    bare = isinstance(error, KeyError) or not said  # is unclear without its kind
    return f"{type(error).__name__} {said}".strip() if bare else said


@contextmanager
def explained(what: str, advice: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds into an InputError: what went wrong, why, and what to do.
    FastBertErrors stay as they are."""
    try:
        yield
    except FastBertError:
        raise
    except kinds as error:
        raise InputError(f"{what}: {first_line(error)}; {advice}") from error


def check_settings(whose: str, settings: Iterable[tuple[str, object, bool, str]]) -> None:
    """Raises InputError for the first invalid setting; each is given as name, value, whether it is
    valid, and what is expected."""
    for name, value, right, expected in settings:
        if not right:
            raise InputError(f"the {whose}'s {name} is {value!r}, expected {expected}")
