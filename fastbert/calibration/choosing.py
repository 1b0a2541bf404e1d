"""Choice of exits: if heads are slow, a few exits cost more time than they save.

On CPUs this does not happen: choosing exits made points slower (docs/calibration.md). GPUs run the
many small operations of a head less efficiently than the few large ones of a layer.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from fastbert.calibration.promises import Array, Sample, furthest, make_path, speedup
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.tokens import Tokens

#: Timed runs, after one warm-up run, and most rows of each.
_RUNS, _ROWS = 3, 8192


def heads_on_clock(engine: Engine, cost: CostModel, tokens: Tokens) -> float:
    """Time of the engine's heads per FLOP on its device, relative to layers; at least 1."""
    tokens = tokens.take(np.arange(min(len(tokens), _ROWS)))
    last = len(engine.exits) - 1
    full, every = _seconds(engine, tokens, [last]), _seconds(engine, tokens, range(last + 1))
    lengths = tokens.costly
    whole = int(cost.full_flops(lengths).sum())
    rest = int(cost.row_flops(lengths, np.full(len(tokens), last)).sum()) - whole
    return max(1.0, (every - full) / rest * whole / full)


def _seconds(engine: Engine, tokens: Tokens, exits: Sequence[int]) -> float:
    """Seconds of one run with these exits."""
    found = []
    for _ in range(_RUNS + 1):
        started = time.perf_counter()
        engine.exit_logits(tokens, exits)
        found.append(time.perf_counter() - started)
    return median(found[1:])


def paying(learners: Sample, criterion: str, share: float, exits: Array) -> Array:
    """The subset of exits, bool (E,), that saves most time on these rows, of which a `share` may
    break: repeatedly leaves out the exit without which most is saved, while that saves more."""
    assert learners.heads is not None
    learners = replace(learners, cost=learners.cost.weighing(learners.heads))

    def saves(exits: Array) -> float:
        path = make_path(learners, criterion, exits, learners)
        return speedup(learners, furthest(learners, path, math.floor(share * len(learners))))

    best = saves(exits)
    while exits[:-1].sum() > 1:
        fewer = [
            np.where(np.arange(len(exits)) == k, False, exits) for k in np.flatnonzero(exits[:-1])
        ]
        found = [saves(each) for each in fewer]
        if max(found) <= best:
            break
        best, exits = max(found), fewer[int(np.argmax(found))]
    return exits
