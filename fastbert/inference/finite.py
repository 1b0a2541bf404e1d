"""Answers that are not numbers: an odd row's, or those of a model that is of no use."""

from torch import nn

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


def refuse_weights(model: nn.Module) -> None:
    """Raises InputError where a weight is not a number."""
    bad = (name for name, each in model.named_parameters() if not each.isfinite().all())
    if (name := next(bad, None)) is not None:
        raise InputError(
            f"the model's weight {name} has numbers that are not finite, which 8 bits would hide; "
            "train, distil or convert it again, or pass --precision fp32 to label other rows"
        )
