"""Answers that are not numbers: an odd row's, or those of a model that is of no use."""

from fastbert.errors import InputError


def speaks_against_the_model(bad: int, rows: int) -> bool:
    """Whether `bad` of `rows` rows without a finite answer are more than odd rows: all, or more
    than one and more than 1 %."""
    return bad > 0 and (bad == rows or bad > max(1, rows / 100))


def refuse_not_finite(bad: int, rows: int) -> None:
    """Raises InputError where `bad` of `rows` rows without a finite answer speak against the
    model."""
    if speaks_against_the_model(bad, rows):
        raise InputError(
            f"the model's answers for {bad:,} of {rows:,} rows are not numbers; expected finite "
            "ones; its weights are of no use: train, distil or convert it again"
        )
