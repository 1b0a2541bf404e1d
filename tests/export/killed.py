"""Exports that end in the middle of a call."""

from itertools import count


class Killed(BaseException):
    """Nothing catches it."""


def failing(original, call: int, after: bool):
    """`original`, but its n-th call raises."""
    calls = count(1)

    def wrapped(*arguments, **named):
        mine = next(calls)
        if mine == call and not after:
            raise Killed
        result = original(*arguments, **named)
        if mine == call:
            raise Killed
        return result

    return wrapped
