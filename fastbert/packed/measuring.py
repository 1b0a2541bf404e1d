"""Measurement of the input ranges of linear maps.

Letters: N tokens, K inputs.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

import torch
from torch import nn

from fastbert.packed.input_range import Range
from fastbert.packed.int8 import Map
from fastbert.packed.placement import Placement
from fastbert.packed.ranges import sizes_behind

#: At most `_FEW` inputs, over `_LARGE` times the size of all others, may be multiplied apart.
_FEW, _LARGE = 8, 2


class Seen:
    """The extremes of a map's inputs, relative to their sizes."""

    def __init__(self, norm: nn.Module | None, inputs: int, apart: bool) -> None:
        """`apart`: a few may be multiplied separately."""
        self.sizes, self.apart = sizes_behind(norm, inputs), apart
        self.least = torch.full((inputs,), torch.inf)  # (K,)
        self.most = -self.least

    def add(self, x: torch.Tensor) -> None:
        """Add inputs (N, K)."""
        least, most = (x / self.sizes).aminmax(dim=0)
        self.least, self.most = self.least.minimum(least), self.most.maximum(most)

    def range(self) -> Range:
        """The range of all inputs except the few large ones; infinite without inputs."""
        sizes = self.most.maximum(-self.least)
        usual = sizes.sort(descending=True).values[min(_FEW, len(sizes) - 1)]
        large = (sizes > _LARGE * usual) & self.apart
        least, most = self.least[~large].min().item(), self.most[~large].max().item()
        return Range(least, most, large.nonzero().flatten().tolist())


@dataclass(frozen=True)
class MeasuringPlacement(Placement):
    """A placement in float32 on a CPU that records inputs of linear maps in `seen`, by the first
    one's name."""

    names: Mapping[nn.Module, str] = field(kw_only=True)
    seen: MutableMapping[str, Seen] = field(kw_only=True)

    def linear(
        self,
        maps: list[nn.Linear],
        activation: str | None = None,
        norm: nn.Module | None = None,
        inner: bool = False,
    ) -> Map:
        run = super().linear(maps, activation, norm, inner)
        # Only if outputs are added to hidden states directly.
        apart = activation is None and not inner
        seen = Seen(norm, maps[0].in_features, apart)
        self.seen[self.names[maps[0]]] = seen

        def measure(x: torch.Tensor) -> torch.Tensor:
            seen.add(x)
            return run(x)

        return measure

    def block(
        self, up: nn.Linear, activation: str, down: nn.Linear, norm: nn.Module | None = None
    ) -> Map:
        first, second = self.linear([up], activation, norm), self.linear([down])
        return lambda x: second(first(x))
