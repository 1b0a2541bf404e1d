"""How the head of an adopted classifier is built, as a checkpoint says it."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec


class HeadLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What lies between the last layer's hidden states (T, H) and the classes: one vector is made
    of them, then, with an activation, Linear H -> H, that activation and perhaps a norm."""

    #: As Hugging Face calls it; None: there is nothing between the vector and the classes.
    activation: str | None = None
    #: The vector: the first token's, or the mean of all.
    pooling: Literal["first", "mean"] = "first"
    #: Epsilon of the layer normalisation behind the activation; None: there is no such norm.
    norm: float | None = None


def layout_settings(layouts: Sequence[HeadLayout]) -> dict[str, Any]:
    """The fields of a checkpoint's config.json that say how heads are built, one for each question.
    One of BERT's kin has a field that earlier releases read, too."""
    activation = layouts[0].activation
    if activation and [*layouts] == [HeadLayout(activation)]:
        return {"teacher_activation": activation}
    return {"adopted_heads": [msgspec.structs.asdict(layout) for layout in layouts]}
