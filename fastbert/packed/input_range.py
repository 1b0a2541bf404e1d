"""What 8-bit linear maps keep their inputs to, as operating points hold it: needs no torch."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Range:
    """Of a map's inputs, by their sizes; those `apart`, by number, may lie far outside."""

    least: float
    most: float
    apart: list[int] = field(default_factory=list)
