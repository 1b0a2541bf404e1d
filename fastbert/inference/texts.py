"""Which texts can be classified at all."""


def unusable(text: str | None) -> str | None:
    """Why a text gets no label; None if it may get one."""
    if text is None:
        return "text is null"
    return "text is empty" if not text or text.isspace() else None
