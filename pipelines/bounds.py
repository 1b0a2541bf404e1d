"""Bounds of the settings that are numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Bound:
    """Allowed values of a number: in words, and as a test."""

    expected: str
    holds: Callable[[Any], bool]


Positive = Annotated[float, Bound("more than 0", lambda value: 0 < value < math.inf)]
Count = Annotated[int, Bound("more than 0, below 2^63", lambda value: 0 < value < 2**63)]
NoLess = Annotated[int, Bound("0 or more, below 2^31", lambda value: 0 <= value < 2**31)]
NotNegative = Annotated[float, Bound("0 or more", lambda value: 0 <= value < math.inf)]
Share = Annotated[float, Bound("a number from 0 to 1", lambda value: 0 <= value <= 1)]
_A_PART = "a share, at least 1e-9 and less than 1: 0.01 is 1 %"
PartOf = Annotated[float, Bound(_A_PART, lambda value: 1e-9 <= value < 1)]
#: Outside these, softened answers are all equal, or numbers overflow.
Soft = Annotated[float, Bound("a number from 0.01 to 100", lambda value: 0.01 <= value <= 100)]
#: Number of rows that a promise covers.
Many = Annotated[int, Bound("a number from 1 to 10^10", lambda value: 1 <= value <= 10**10)]
#: Seeds that numpy, torch and random all accept.
Seed = Annotated[int, Bound("a number from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32)]
#: Exit code of a run with an alarm. 1 to 4 have other meanings; the shell uses 126 and above.
AlarmCode = Annotated[int, Bound("0, or 5 to 125", lambda value: value == 0 or 5 <= value <= 125)]
