"""Input ranges of 8-bit linear maps, as stored in operating points; needs no torch."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Range:
    """Range of a map's inputs, relative to their sizes; inputs `apart`, by number, may lie far
    outside."""

    least: float
    most: float
    apart: list[int] = field(default_factory=list)
