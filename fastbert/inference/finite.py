"""Answers that are not numbers: of a few odd rows, or of an unusable model."""

from fastbert.errors import InputError


def speaks_against_the_model(bad: int, rows: int) -> bool:
    """Whether `bad` of `rows` rows without a finite answer are too many for odd rows: all, or more
    than one and more than 1 %."""
    return bad > 0 and (bad == rows or bad > max(1, rows / 100))


def refuse_not_finite(bad: int, rows: int) -> None:
    """Raises InputError if `bad` of `rows` rows without a finite answer show an unusable model."""
    if speaks_against_the_model(bad, rows):
        raise InputError(
            f"the model's answers for {bad:,} of {rows:,} rows are not numbers; expected finite "
            "ones; its weights are unusable: train, distil or convert it again"
        )
