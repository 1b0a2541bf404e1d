"""How the head of an adopted classifier is built, as a checkpoint says it."""

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

    def settings(self) -> dict[str, Any]:
        """The fields of a checkpoint's config.json that say so. BERT's kin have a field that
        earlier releases read, too."""
        if self.activation and self == HeadLayout(self.activation):
            return {"teacher_activation": self.activation}
        return {"adopted_head": msgspec.structs.asdict(self)}
