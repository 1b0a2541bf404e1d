"""Interface of an architecture for inference.

Letters: P tokens of a batch, including those of no row, H hidden size, L layers.
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
    """One architecture: it gives sizes and costs from its configuration; after `load`, with
    weights, it computes over packed rows.

    Training needs only `trained_readout`: hidden states come from Hugging Face's own modules.
    """

    #: Model types of its configurations, as in Hugging Face.
    model_types: ClassVar[Collection[str]]

    depth: int  # L
    width: int  # H
    longest: int  # tokens that a row may have

    @abstractmethod
    def __init__(self, config: PreTrainedConfig) -> None:
        """For a backbone's configuration."""

    @property
    def backbone_options(self) -> dict[str, Any]:
        """Arguments of Hugging Face's base model: without unused parts, and with a supported
        attention."""
        return {}

    @abstractmethod
    def head_of(self, classifier: PreTrainedModel) -> ClassifierHead:
        """A sequence classifier's head; raises AttributeError if it is not the usual one."""

    @abstractmethod
    def flops(self, k: int, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Floating-point operations of layer k, 1 to L, or, for 0, before the first, for rows of
        these lengths (n,): 2 per multiply-add of linear maps and attention products."""

    @abstractmethod
    def load(self, backbone: PreTrainedModel, place: Placement) -> Self:
        """Set the weights, which stay shared with the backbone; returns itself."""

    @abstractmethod
    def embed(self, ids: torch.Tensor, types: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        """Token ids (P,) and types (P,), or None for all 0, to (P, H).

        Here and below, values of tokens of no row have no meaning.
        """

    @abstractmethod
    def layer(self, k: int, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Layer k, 1 to L: hidden states (P, H) to the next ones (P, H)."""

    def readout(self, k: int, hidden: torch.Tensor) -> torch.Tensor:
        """The input of a head at depth k: hidden states (P, H), by default unchanged."""
        return hidden

    def trained_readout(
        self, backbone: PreTrainedModel, k: int, states: torch.Tensor
    ) -> torch.Tensor:
        """The same in training, from `hidden_states[k]` (B, T, H) of Hugging Face's base model."""
        return states
