"""Linear maps of 8-bit whole numbers whose inputs keep to ranges that were measured, on CPUs.

With a scale that is known beforehand, oneDNN's product does all: it adds the bias, applies the
activation and gives the whole numbers that the next map takes. Inputs outside their range are cut
to it.

One range does for all K inputs of a map, so they should be of one size:

* Those behind a normalisation differ as its weights do. They are divided by the size that these let
  expect, and the map's weight is multiplied: what SmoothQuant (Xiao et al. 2023) does by measured
  sizes.
* A few that are more than twice as large as all others are multiplied apart, in float32: LLM.int8
  (Dettmers et al. 2022). In MiniLM one of 1,536 inputs of a way down is four times as large.

Letters: N tokens, K inputs, M outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from fastbert.errors import InputError
from fastbert.packed.input_range import Range
from fastbert.packed.int8 import Map, Weight, cut
from fastbert.packed.linear import FUSED, side_by_side
from fastbert.packed.placement import Placement

#: So many standard deviations of a normalised number count as its size.
_DEVIATIONS = 6


def sizes_behind(norm: nn.Module | None, inputs: int) -> torch.Tensor:
    """What size numbers behind a normalisation may be expected to have; without one, 1: (K,)."""
    if not isinstance(norm, nn.LayerNorm):
        return torch.ones(inputs)
    sizes = norm.weight.detach().abs() * _DEVIATIONS
    if norm.bias is not None:
        sizes = sizes + norm.bias.detach().abs()
    return sizes.clamp_min(1e-6)


class Fixed:
    """A linear map whose inputs keep to a range."""

    def __init__(self, maps: list[nn.Linear], norm: nn.Module | None, span: Range) -> None:
        weight, self.bias = side_by_side(maps)
        self.apart = span.apart
        #: What inputs apart (N, k) are multiplied by.
        self.beside = weight[:, span.apart].t().contiguous()
        sizes = sizes_behind(norm, weight.shape[1])
        kept = sizes.clone()
        kept[span.apart] = 0
        self.weight = Weight(weight * kept)
        least, most = min(span.least, 0.0), max(span.most, 0.0)
        self.step = max((most - least) / self.weight.top, 1e-12)
        self.zero = round(-least / self.step)
        self.factor = 1 / (self.step * sizes)
        self.shift = torch.full_like(sizes, self.zero + 0.5)  # a half: it is rounded by the cut

    def quantised(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (N, K) as whole numbers, uint8."""
        found = torch.addcmul(self.shift, x, self.factor).clamp_(0, self.weight.top)
        return cut(found)

    def outputs(
        self, x: torch.Tensor, dtype: torch.dtype, activation: str | None = None
    ) -> torch.Tensor:
        """Whole numbers (N, K) to outputs (N, M), with an `activation` applied; without those of
        inputs apart."""
        fused = self._fused(activation)
        found = self.weight.product(x, self.zero, self.step, self.bias, dtype, fused)
        return found if activation is None or fused else ACT2FN[activation](found)

    def inputs_of(self, other: "Fixed", x: torch.Tensor, activation: str) -> torch.Tensor:
        """Whole numbers (N, K) to those, (N, M), that another map takes."""
        fused, most = self._fused(activation), other.weight.top
        if not fused:
            return other.quantised(self.outputs(x, torch.float32, activation))
        result = other.step, other.zero
        found = self.weight.product(x, self.zero, self.step, self.bias, torch.uint8, fused, result)
        return found if most == 255 else found.clamp_(max=most)

    def _fused(self, activation: str | None) -> tuple[str, str] | None:
        """What the product applies as it goes."""
        return FUSED.get(activation or "") if self.weight.exact else None


@dataclass(frozen=True)
class FixedPlacement(Placement):
    """On a CPU, where linear maps keep to `ranges`, by the first one's name; what attention
    computes with may have another type of numbers."""

    names: Mapping[nn.Module, str] = field(kw_only=True)
    ranges: Mapping[str, Range] = field(kw_only=True)
    within: torch.dtype = torch.float32

    @property
    def inner(self) -> torch.dtype:
        return self.within

    def linear(
        self,
        maps: list[nn.Linear],
        activation: str | None = None,
        norm: nn.Module | None = None,
        inner: bool = False,
    ) -> Map:
        fixed, dtype = self._fixed(maps, norm), self.inner if inner else self.dtype

        def run(x: torch.Tensor) -> torch.Tensor:
            found = fixed.outputs(fixed.quantised(x), dtype, activation)
            if not fixed.apart:
                return found
            return found.addmm_(x[:, fixed.apart].to(dtype), fixed.beside)

        return run

    def block(
        self, up: nn.Linear, activation: str, down: nn.Linear, norm: nn.Module | None = None
    ) -> Map:
        first, second = self._fixed([up], norm), self._fixed([down], None)
        weight, bias = side_by_side([up])
        weight, bias, function = weight[second.apart], bias[second.apart], ACT2FN[activation]

        def run(x: torch.Tensor) -> torch.Tensor:
            inputs = first.inputs_of(second, first.quantised(x), activation)
            found = second.outputs(inputs, self.dtype)
            if not second.apart:
                return found
            return found.addmm_(function(functional.linear(x, weight, bias)), second.beside)

        return run

    def _fixed(self, maps: list[nn.Linear], norm: nn.Module | None) -> Fixed:
        name = self.names[maps[0]]
        if name not in self.ranges:
            raise InputError(
                f"the operating point has no range for the inputs of {name}; make it again with "
                "fastbert calibrate --precision int8"
            )
        return Fixed(maps, norm, self.ranges[name])
