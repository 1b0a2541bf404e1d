"""Errors a caller can act on, and the exit code that each gives a command.

    FastBertError     something the project can name went wrong                            1
    ├── InputError    an option, path, checkpoint or table is wrong; nothing was done      2
    │   └── NotProven   a promise cannot be proven on these rows
    └── MachineError  the machine, its memory or its libraries fail; no input is to blame  1
    Stopped           somebody wants the process to end                                    1

Messages say what was found, what was expected and what to do. Everything else that can go wrong is
a bug and keeps its traceback.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class FastBertError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        """One line, whatever the names in it hold."""
        return " ".join(super().__str__().splitlines())


class InputError(FastBertError):
    """What the user passed cannot be used; the message says what to pass instead."""

    exit_code = 2


class NotProven(InputError):
    """The rows are too few for a promise, or nothing faster than full depth keeps it."""


class MachineError(FastBertError):
    """The machine, its memory or its libraries fail, and would with any input."""


class Stopped(BaseException):
    """The process was asked to end, by SIGTERM or Ctrl-C. Like KeyboardInterrupt no `Exception`, so
    that nobody who handles these takes it for a fault of what he called."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """The first line of an error's message, and the next one if it ends with a colon; libraries
    append pages of advice."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    said = " ".join(lines[: 1 + lines[0].endswith(":")])
    bare = isinstance(error, KeyError) or not said  # which tells nothing without its kind
    return f"{type(error).__name__} {said}".strip() if bare else said


@contextmanager
def explained(what: str, advice: str, *kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds become an InputError: what went wrong, why, and what to do. Those that
    say so themselves stay as they are."""
    try:
        yield
    except FastBertError:
        raise
    except kinds as error:
        raise InputError(f"{what}: {first_line(error)}; {advice}") from error


def check_settings(whose: str, settings: Iterable[tuple[str, object, bool, str]]) -> None:
    """Raises InputError for the first setting, of name, value, whether that can be, and what is
    expected, that cannot be."""
    for name, value, right, expected in settings:
        if not right:
            raise InputError(f"the {whose}'s {name} is {value!r}, expected {expected}")
