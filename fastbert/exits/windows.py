"""Long texts, read as several windows."""

from typing import Any, Literal

import msgspec

from fastbert.errors import InputError, explained


class Windows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a text that is longer than the model reads is divided, and how its answers are one."""

    #: At most so many; the rest of the text is not read. None: as many as it takes.
    most: int | None = None
    #: Tokens that a window shares with the one before, as Hugging Face's tokenizers call it.
    stride: int = 0
    #: Of what exits give for each window: the mean, or the largest.
    pool: Literal["mean", "max"] = "mean"


def windows_of(values: dict[str, Any] | None, max_length: int) -> Windows | None:
    """Those of a checkpoint's config.json; InputError where they make no sense for its length."""
    if values is None:
        return None
    advice = "expected some like {'most': 4, 'stride': 32, 'pool': 'mean'}"
    with explained("the checkpoint's windows cannot be read", advice, msgspec.ValidationError):
        windows = msgspec.convert(values, Windows)
    if (
        windows.most is not None and windows.most < 1
    ) or not 0 <= windows.stride <= max_length // 2:
        raise InputError(
            f"windows of {max_length} tokens are to be {windows.most} at most with a stride of "
            f"{windows.stride}; expected at least 1, and from 0 to half of the tokens"
        )
    return windows
