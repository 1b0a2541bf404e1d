"""Where a model computes, and in which numbers: copies of its weights there."""

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from fastbert.packed import norm
from fastbert.packed.linear import Map, prepared

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Placement:
    """A device and a type of numbers; with `int8`, linear maps multiply 8-bit integers.

    What it is given is never changed, and tensors that are there already are shared.
    """

    device: torch.device
    dtype: torch.dtype
    int8: bool = False

    def tensor(self, values: torch.Tensor) -> torch.Tensor:
        """A weight, without gradients."""
        return values.detach().to(self.device, self.dtype)

    def module(self, module: Module) -> Module:
        """A copy of a small part of a model, in eval mode."""
        return copy.deepcopy(module).eval().requires_grad_(False).to(self.device, self.dtype)

    def exactly(self, module: Module) -> Module:
        """The same, in float32 whatever the type of numbers."""
        return copy.deepcopy(module).eval().requires_grad_(False).to(self.device)

    def linear(self, maps: list[nn.Linear], activation: str | None = None) -> Map:
        """`prepared` of linear maps side by side."""
        return prepared([self.module(each) for each in maps], activation, self.int8)

    def add_norm(self, module: nn.LayerNorm) -> norm.AddNorm:
        """`norm.add_norm` of a normalisation."""
        return norm.add_norm(self.module(module))
