"""Linear maps of 8-bit integers with inputs clipped to measured ranges, on CPUs.

With a scale known beforehand, oneDNN's product does everything: it adds the bias, applies the
activation and returns the integers for the next map. Inputs outside their range are clipped.

One range is used for all K inputs of a map, so they should have similar sizes:

* Those after a normalisation differ like its weights. They are divided by the size expected from
  these, and the map's weight is multiplied, as SmoothQuant (Xiao et al. 2023) does with measured
  sizes.
* A few may be more than twice as large as all others. Their excess over the range is multiplied
  separately, in float32: LLM.int8 (Dettmers et al. 2022). In MiniLM one of 1,536 inputs of a down
  projection is four times as large, in one token of each row.

Letters: N tokens, K inputs, M outputs.
"""

from collections.abc import Callable, Mapping
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

#: Size of a normalised number, in standard deviations.
_DEVIATIONS = 6

#: Tokens (n,) to their inputs apart, float32: (n, k).
Exact = Callable[[torch.Tensor], torch.Tensor]


def sizes_behind(norm: nn.Module | None, inputs: int) -> torch.Tensor:
    """Expected size of numbers after a normalisation, or 1 without: (K,)."""
    if not isinstance(norm, nn.LayerNorm):
        return torch.ones(inputs)
    sizes = norm.weight.detach().abs() * _DEVIATIONS
    if norm.bias is not None:
        sizes = sizes + norm.bias.detach().abs()
    return sizes.clamp_min(1e-6)


class Fixed:
    """A linear map with inputs clipped to a range."""

    def __init__(self, maps: list[nn.Linear], norm: nn.Module | None, span: Range) -> None:
        weight, self.bias = side_by_side(maps)
        sizes = sizes_behind(norm, weight.shape[1])
        self.weight = Weight(weight * sizes)
        least, most = min(span.least, 0.0), max(span.most, 0.0)
        self.step = max((most - least) / self.weight.top, 1e-12)
        self.zero = round(-least / self.step)
        #: The inputs apart (k,), the ends of their range, and their weights, (k, M).
        self.apart = torch.tensor(span.apart, dtype=torch.long)
        levels = torch.tensor([[-self.zero], [self.weight.top - self.zero]])
        self.ends = levels * self.step * sizes[self.apart]  # (2, k)
        self.beside = weight[:, self.apart].t().contiguous()
        self.factor = 1 / (self.step * sizes)
        self.shift = torch.full_like(sizes, self.zero + 0.5)  # one half, so that truncation rounds

    def quantised(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (N, K) as integers, uint8."""
        found = torch.addcmul(self.shift, x, self.factor).clamp_(0, self.weight.top)
        return cut(found)

    def outputs(
        self, x: torch.Tensor, dtype: torch.dtype, activation: str | None = None
    ) -> torch.Tensor:
        """Integers (N, K) to outputs (N, M), with an `activation` applied."""
        fused = self._fused(activation)
        found = self.weight.product(x, self.zero, self.step, self.bias, dtype, fused)
        return found if activation is None or fused else ACT2FN[activation](found)

    def beyond(self, x: torch.Tensor, exact: Exact, outputs: torch.Tensor) -> torch.Tensor:
        """Add to the outputs of integers (N, K), in place, the excess of inputs apart over the
        range; `exact` gives their values."""
        if len(self.apart):
            known = x.index_select(1, self.apart)
            tokens = ((known == 0) | (known == self.weight.top)).any(1).nonzero().flatten()
            inputs = exact(tokens)
            outputs.index_add_(0, tokens, (inputs - inputs.clamp(*self.ends)) @ self.beside)
        return outputs

    def inputs_of(self, other: "Fixed", x: torch.Tensor, activation: str) -> torch.Tensor:
        """Integers (N, K) to the integers, (N, M), for another map."""
        fused, most = self._fused(activation), other.weight.top
        if not fused:
            return other.quantised(self.outputs(x, torch.float32, activation))
        result = other.step, other.zero
        found = self.weight.product(x, self.zero, self.step, self.bias, torch.uint8, fused, result)
        return found if most == 255 else found.clamp_(max=most)

    def _fused(self, activation: str | None) -> tuple[str, str] | None:
        """The activation that the product applies."""
        return FUSED.get(activation or "") if self.weight.exact else None


@dataclass(frozen=True)
class FixedPlacement(Placement):
    """A placement on a CPU where inputs of linear maps are clipped to `ranges`, by the first one's
    name; attention may have another dtype."""

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
            inputs = fixed.quantised(x)
            found = fixed.outputs(inputs, dtype, activation)
            return fixed.beyond(inputs, lambda tokens: x[tokens][:, fixed.apart].float(), found)

        return run

    def block(
        self, up: nn.Linear, activation: str, down: nn.Linear, norm: nn.Module | None = None
    ) -> Map:
        first, second = self._fixed([up], norm), self._fixed([down], None)
        weight, bias = side_by_side([up])
        weight, bias, function = weight[second.apart], bias[second.apart], ACT2FN[activation]

        def run(x: torch.Tensor) -> torch.Tensor:
            def exact(tokens: torch.Tensor) -> torch.Tensor:
                found: torch.Tensor = function(functional.linear(x[tokens], weight, bias))
                return found

            inputs = first.inputs_of(second, first.quantised(x), activation)
            return second.beyond(inputs, exact, second.outputs(inputs, self.dtype))

        return run

    def _fixed(self, maps: list[nn.Linear], norm: nn.Module | None) -> Fixed:
        name = self.names[maps[0]]
        if name not in self.ranges:
            raise InputError(
                f"the operating point has no range for the inputs of {name}; make it again with "
                "fastbert calibrate --precision int8"
            )
        return Fixed(maps, norm, self.ranges[name])
