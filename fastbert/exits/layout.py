"""Layout of the head of an adopted classifier, as stored in a checkpoint."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec


class HeadLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The steps from the last layer's hidden states (T, H) to the classes: pooling to one vector,
    then, with an activation, Linear H -> H, that activation and optionally a norm."""

    #: Name in Hugging Face; None: the vector goes directly to the classes.
    activation: str | None = None
    #: The vector: that of the first token, or the mean of all.
    pooling: Literal["first", "mean"] = "first"
    #: Epsilon of the layer normalisation after the activation; None: no norm.
    norm: float | None = None


def layout_settings(layouts: Sequence[HeadLayout]) -> dict[str, Any]:
    """The fields of a checkpoint's config.json with the layouts of heads, one for each question.
    That of BERT and similar families has a field that earlier releases also read."""
    activation = layouts[0].activation
    if activation and [*layouts] == [HeadLayout(activation)]:
        return {"teacher_activation": activation}
    return {"adopted_heads": [msgspec.structs.asdict(layout) for layout in layouts]}
