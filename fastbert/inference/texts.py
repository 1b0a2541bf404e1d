"""Checks that a text can be classified."""


def unusable(text: str | None) -> str | None:
    """Why a text cannot get a label; None if it can."""
    if text is None:
        return "text is null"
    return "text is empty" if not text or text.isspace() else None
