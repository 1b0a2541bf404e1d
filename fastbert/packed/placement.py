"""Device and dtype of a model's computation, and copies of its weights there."""

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from fastbert.packed import norm
from fastbert.packed.int8 import Map
from fastbert.packed.linear import block, prepared

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Placement:
    """A device and a dtype, and the dtype of the factors of linear maps, if different.

    Its arguments are never changed; tensors that are already there are shared.
    """

    device: torch.device
    dtype: torch.dtype
    factors: torch.dtype | None = None

    def tensor(self, values: torch.Tensor) -> torch.Tensor:
        """A weight, without gradients."""
        return values.detach().to(self.device, self.dtype)

    def module(self, module: Module) -> Module:
        """A copy of a small part of a model, in eval mode."""
        return copy.deepcopy(module).eval().requires_grad_(False).to(self.device, self.dtype)

    def exactly(self, module: Module) -> Module:
        """The same, always in float32."""
        return copy.deepcopy(module).eval().requires_grad_(False).to(self.device)

    @property
    def inner(self) -> torch.dtype:
        """The dtype within a layer, for attention."""
        return self.dtype

    def linear(
        self,
        maps: list[nn.Linear],
        activation: str | None = None,
        norm: nn.Module | None = None,
        inner: bool = False,
    ) -> Map:
        """`prepared` of linear maps side by side. `norm`: the norm directly before them; `inner`:
        their outputs stay within a layer."""
        return prepared([self.module(each) for each in maps], activation, self.factors)

    def block(
        self, up: nn.Linear, activation: str, down: nn.Linear, norm: nn.Module | None = None
    ) -> Map:
        """`linear.block` of a feed-forward block; otherwise as for linear maps."""
        return block(self.module(up), activation, self.module(down), self.factors)

    def add_norm(self, module: nn.LayerNorm) -> norm.AddNorm:
        """`norm.add_norm` of a normalisation."""
        return norm.add_norm(self.module(module))
