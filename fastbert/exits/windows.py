"""Long texts, read as several windows."""

from typing import Any, Literal

import msgspec

from fastbert.errors import InputError, explained


class Windows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a text longer than the model's input is divided, and how its answers are combined."""

    #: Most windows; the rest of the text is not read. None: no limit.
    most: int | None = None
    #: Tokens that a window shares with the one before, the `stride` of Hugging Face's tokenizers.
    stride: int = 0
    #: How exits' logits of the windows are combined: their mean, or the largest.
    pool: Literal["mean", "max"] = "mean"


def windows_of(values: dict[str, Any] | None, max_length: int) -> Windows | None:
    """The windows in a checkpoint's config.json; raises InputError if they do not fit its
    length."""
    if values is None:
        return None
    advice = "expected an object like {'most': 4, 'stride': 32, 'pool': 'mean'}"
    with explained("the checkpoint's windows cannot be read", advice, msgspec.ValidationError):
        windows = msgspec.convert(values, Windows)
    if (
        windows.most is not None and windows.most < 1
    ) or not 0 <= windows.stride <= max_length // 2:
        raise InputError(
            f"at most {windows.most} windows of {max_length} tokens with a stride of "
            f"{windows.stride}; expected at least 1 window, and a stride from 0 to half of the "
            "tokens"
        )
    return windows
