"""Would calibration gain by leaving out exits that do not pay?

Hypothesis: exits chosen by the rows that do not prove, so that these save most, make points faster.

    python -m benchmarks.quality.paper --data DATA --work WORK --output benchmarks/results/paper
    python -m benchmarks.quality.choosing_exits --work WORK \\
        --output benchmarks/results/choosing_exits.json

As promises.py, with the criterion "tempered-entropy": each split calibrates on a half, and looks at
the other. From all exits on, the one is left out without which most is saved, as long as that saves
more. The cost of heads is counted as their FLOPs, and as three times that, which is more than they
take on the clock.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.quality.promises import CONFIDENCE, load_outputs
from benchmarks.support.measure import machine
from fastbert.calibration.choosing import paying
from fastbert.calibration.points import sample_of
from fastbert.calibration.promises import Sample, divided, keep_promise, speedup
from fastbert.exits.operating_point import Promise

SHARE, CRITERION = 0.01, "tempered-entropy"
#: What heads are counted as, in times of their FLOPs.
WEIGHTS = (1, 3)


def compare(known: Sample, weight: int, splits: int) -> dict[str, Any]:
    """Times fewer, as counted, with all exits and with chosen ones, over all splits together."""
    cost = known.cost.weighing(weight)
    known = Sample(known.outputs, cost, precision=known.precision, heads=weight)
    n, spent = len(known), {"all": list[float](), "chosen": list[float]()}
    used = np.zeros(len(cost.exits))
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(n)
        sample, rest = known.take(order[: n // 2]), known.take(order[n // 2 :])
        learners, _ = divided(sample, (CRITERION,), seed)
        chosen = paying(learners, CRITERION, SHARE, np.ones(len(cost.exits), bool))
        used += chosen
        for name, exits in (("all", np.ones(len(chosen), bool)), ("chosen", chosen)):
            point = keep_promise(
                sample, Promise(SHARE, CONFIDENCE, len(rest)), (CRITERION,), exits, seed
            )
            if point is not None:
                spent[name].append(1 / speedup(rest, point.rule()))
    times = {name: round(1 / float(np.mean(each)), 3) for name, each in spent.items()}
    return times | {
        "chosen : all": round(times["chosen"] / times["all"], 3),
        "used": (used / splits).round(2).tolist(),
    }


@click.command()
@click.option("--work", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--sets", multiple=True, default=("ag_news", "banking77", "goemotions", "mrpc"))
@click.option("--splits", default=50, show_default=True)
def main(work: Path, output: Path, sets: tuple[str, ...], splits: int) -> None:
    """See the top of this file."""
    found: dict[str, Any] = {
        "program": "python -m benchmarks.quality.choosing_exits --work WORK "
        f"--splits {splits} --output benchmarks/results/choosing_exits.json",
        "machine": machine(),
        "splits": splits,
        "sets": {},
    }
    for name in sets:
        outputs, cost = load_outputs(work / name)
        known = sample_of(outputs, None, cost, (), "fp32")
        result = {f"heads x {weight}": compare(known, weight, splits) for weight in WEIGHTS}
        found["sets"][name] = result
        print(name, result, flush=True)
        output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
