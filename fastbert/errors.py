"""Errors a caller can act on.

    FastBertError
    └── InputError      an option, path, checkpoint or table is wrong; nothing was done (exit 2)

Messages say what was found, what was expected and what to do. Everything else that can go wrong is
a bug and keeps its traceback.
"""


class FastBertError(Exception):
    """Base of every error this project raises on purpose."""


class InputError(FastBertError):
    """What the user passed cannot be used; the message says what to pass instead."""
