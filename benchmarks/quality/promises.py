"""Are promises kept as often as they say? Calibration, again and again, on stored answers.

Claim: of the points that calibration chooses with `--confidence 0.95`, at most one in twenty breaks
its promise on the rows it has not seen; and not far fewer do.

    python -m benchmarks.quality.paper --data DATA --work WORK --output benchmarks/results/paper
    python -m benchmarks.quality.promises --work WORK --output benchmarks/results/promises.json

WORK holds `<set>/outputs.npz`, what every exit says of every test row. Each of the splits draws
half of them to calibrate on; the promise is about the other half. Every criterion is tried with the
exits behind layers, and with that before the first layer, and once all of them are left to choose
from; "tempered-entropy" also without what earlier exits said. Sets that are in the output but not
in WORK stay in it.
"""

import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np

from benchmarks.support.measure import machine
from fastbert.calibration.evaluation import ExitOutputs, outcome
from fastbert.calibration.points import sample_of
from fastbert.calibration.promises import keep_promise
from fastbert.configuration import load_config
from fastbert.exits.criteria import CRITERIA
from fastbert.exits.exit import chosen
from fastbert.exits.operating_point import Promise
from fastbert.inference.cost import CostModel
from fastbert.model import FastBertForSequenceClassification

CONFIDENCE = 0.95
#: Temperatures only: nothing of what earlier exits said.
ALONE = "tempered-entropy, 0-, each exit alone"
#: What may be chosen from, criteria and exits, by a name for the table.
OFFERS: dict[str, tuple[tuple[str, ...], str]] = {
    f"{criterion}, {exits}": ((criterion,), exits)
    for exits in ("1-", "0-")
    for criterion in CRITERIA
} | {"auto, 0-": (tuple(CRITERIA), "0-")}


def load_outputs(folder: Path) -> tuple[ExitOutputs, CostModel]:
    """The answers that paper.py has stored for a data set, and what its rows cost."""
    model = FastBertForSequenceClassification(load_config(folder / "model"))  # any weights will do
    with np.load(folder / "outputs.npz") as file:
        logits, lengths = file["logits"].astype(np.float32), file["lengths"].astype(np.int64)
    return ExitOutputs(logits, lengths, model.task), CostModel(model)


def cover(
    outputs: ExitOutputs,
    cost: CostModel,
    share: float,
    criteria: tuple[str, ...],
    exits: str,
    splits: int,
    within: tuple[float, ...] = (),
    truth: np.ndarray | None = None,
    reference: np.ndarray | None = None,
) -> dict[str, Any]:
    """How often promises about the rest of the rows were broken, and what they were worth; of
    scores, promises that they are `within` a tolerance or cut-offs. With the truth also how good
    the answers were. `reference`: answers that full depth should give, where not its own."""
    known = sample_of(outputs, None, cost, (), "fp32", within, reference=reference)
    used = np.array(chosen(exits, cost.exits))
    n = len(known)
    broken, disagreements, speedups, qualities = 0, [], [], []
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(n)
        sample, rest = order[: n // 2], order[n // 2 :]
        promise = Promise(share, CONFIDENCE, len(rest))
        point = keep_promise(known.take(sample), promise, criteria, used, seed)
        if point is None or (point.evidence and point.evidence.flops_speedup <= 1):
            continue  # too few rows, or nothing faster than full depth: nothing is promised
        of_rest = (None if each is None else each[rest] for each in (truth, reference))
        found = outcome(outputs.take(rest), cost, point.rule(), *of_rest)
        qualities.append(found.quality)
        changed = round((1 - found.agreement) * len(rest))  # rows: their share is never exact
        broken += changed > share * len(rest)
        disagreements.append(changed / len(rest))
        speedups.append(found.flops_speedup)
    made = len(speedups)
    return {
        "promises": made,
        "broken": int(broken),
        "share_broken": round(broken / made, 4) if made else None,
        "mean_disagreement": round(float(np.mean(disagreements)), 5) if made else None,
        "mean_flops_speedup": round(float(np.mean(speedups)), 3) if made else None,
        # Where whole splits leave at the first exit, their ratios drown all others.
        "flops_speedup_of_all_together": (
            round(1 / float(np.mean(1 / np.array(speedups))), 3) if made else None
        ),
    } | {
        f"mean_{measure}": round(float(np.mean([each[measure] for each in qualities])), 4)
        for measure in (qualities[0] if qualities else ())
    }


@click.command()
@click.option("--work", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--splits", default=200, show_default=True)
@click.option("--share", default=0.01, show_default=True, help="Promised, of labels that change.")
def main(work: Path, output: Path, splits: int, share: float) -> None:
    """See the top of this file."""
    found: dict[str, Any] = {
        "program": f"python -m benchmarks.quality.promises --work WORK --splits {splits} "
        f"--share {share:g} --output benchmarks/results/promises.json",
        "machine": machine(),
        "confidence": CONFIDENCE,
        "share": share,
        "splits": splits,
        "sets": json.loads(output.read_text())["sets"] if output.exists() else {},
    }
    for folder in sorted(path.parent for path in work.glob("*/outputs.npz")):
        if "." in folder.name:
            continue  # another recipe's, of the ablation
        outputs, cost = load_outputs(folder)
        rows = len(outputs.lengths)
        result = found["sets"][folder.name] = {"rows": rows, "calibrated_on": rows // 2}
        for name, offer in OFFERS.items():
            started = time.monotonic()
            result[name] = cover(outputs, cost, share, *offer, splits)
            taken = time.monotonic() - started
            print(f"{folder.name}, {name}: {result[name]} ({taken:.0f} s)", flush=True)
        with patch("fastbert.exits.rules._FADING", 0.0):
            result[ALONE] = cover(outputs, cost, share, ("tempered-entropy",), "0-", splits)
        output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
