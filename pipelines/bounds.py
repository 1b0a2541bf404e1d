"""What numbers among the settings may be."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Bound:
    """What a number may be: in words, and as a test of it."""

    expected: str
    holds: Callable[[Any], bool]


Positive = Annotated[float, Bound("more than 0", lambda value: 0 < value < math.inf)]
Count = Annotated[int, Bound("more than 0, below 2^63", lambda value: 0 < value < 2**63)]
NoLess = Annotated[int, Bound("0 or more, below 2^31", lambda value: 0 <= value < 2**31)]
NotNegative = Annotated[float, Bound("0 or more", lambda value: 0 <= value < math.inf)]
Share = Annotated[float, Bound("a number from 0 to 1", lambda value: 0 <= value <= 1)]
_A_PART = "a share, at least 1e-9 and less than 1: 0.01 is 1 %"
PartOf = Annotated[float, Bound(_A_PART, lambda value: 1e-9 <= value < 1)]
#: Beyond these, the softened answers are all the same, or numbers overflow.
Soft = Annotated[float, Bound("a number from 0.01 to 100", lambda value: 0.01 <= value <= 100)]
#: How many rows a promise is about.
Many = Annotated[int, Bound("a number from 1 to 10^10", lambda value: 1 <= value <= 10**10)]
#: What numpy, torch and random all take.
Seed = Annotated[int, Bound("a number from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32)]
#: Of a run that raises an alarm. The others say how it ended, and 126 and above are the shell's.
AlarmCode = Annotated[int, Bound("0, or 5 to 125", lambda value: value == 0 or 5 <= value <= 125)]
