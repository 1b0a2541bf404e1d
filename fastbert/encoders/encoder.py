"""What inference asks of an architecture.

Letters: P tokens of a batch, those of no row with them, H hidden size, L layers.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedModel

from fastbert.exits.heads import ClassifierHead
from fastbert.packed.batching import Batch
from fastbert.packed.placement import Placement


class Encoder(ABC):
    """One architecture: from its configuration it knows sizes and costs; with weights, from `load`
    on, it computes over packed rows.

    Training needs only `trained_readout`: Hugging Face's own modules give the hidden states.
    """

    #: Of the configurations it is for, as Hugging Face calls them.
    model_types: ClassVar[Collection[str]]

    depth: int  # L
    width: int  # H
    longest: int  # tokens that a row may have

    @abstractmethod
    def __init__(self, config: PreTrainedConfig) -> None:
        """For a backbone's configuration."""

    @property
    def backbone_options(self) -> dict[str, Any]:
        """What Hugging Face's base model is made with: without a part that nobody uses, and with
        an attention that it has."""
        return {}

    @abstractmethod
    def head_of(self, classifier: PreTrainedModel) -> ClassifierHead:
        """A sequence classifier's head; AttributeError if it does not have the usual one."""

    @abstractmethod
    def flops(self, k: int, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Floating-point operations of layer k, 1 to L, or, for 0, of what comes before the first,
        for rows of these lengths (n,): 2 per multiply-add of linear maps and attention products."""

    @abstractmethod
    def load(self, backbone: PreTrainedModel, place: Placement) -> Self:
        """Take the weights, which stay the backbone's own; returns itself."""

    @abstractmethod
    def embed(self, ids: torch.Tensor, types: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        """Token ids (P,) and types (P,), or None for all 0, to (P, H).

        Here and below, what becomes of tokens of no row means nothing.
        """

    @abstractmethod
    def layer(self, k: int, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Layer k, 1 to L: hidden states (P, H) to the next ones (P, H)."""

    def readout(self, k: int, hidden: torch.Tensor) -> torch.Tensor:
        """What a head at depth k reads: hidden states (P, H), by default as they are."""
        return hidden

    def trained_readout(
        self, backbone: PreTrainedModel, k: int, states: torch.Tensor
    ) -> torch.Tensor:
        """The same in training, of `hidden_states[k]` (B, T, H) of Hugging Face's base model."""
        return states
