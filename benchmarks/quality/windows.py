"""A text's windows together, or one after the other? What each saves, on real texts.

Hypothesis: to read all windows of a text layer by layer together, as the engine does, saves more
than to read its first windows to the last layer, and the others only where those are not sure.

Both begin with the exit before the first layer, which hears the whole text, and are compared where
they change the same share of the answers of these rows; no proof is asked for. Each exit decides by
itself, softened by a temperature of its own, fitted on a tenth of the rows, which do not count. The
second way may have a threshold of its own for its first windows, and takes the best pair of them.

    python -m benchmarks.quality.windows --model MODEL --data test.parquet \\
        --output benchmarks/results/windows.json

MODEL reads by windows and answers one question, as that of `benchmarks.quality.kinds` for
imdb_windows.
"""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.support.measure import machine
from fastbert.calibration.evaluation import ExitOutputs, exit_logits
from fastbert.calibration.temperatures import fit_temperatures
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.precision import device
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples

Array = NDArray[Any]
#: Thresholds that are tried.
_THRESHOLDS = np.geomspace(1e-3, 1, 40)


@dataclass
class Stage:
    """Exits that texts come to one after the other, with a threshold in common."""

    unsure: Array  # (E, n)
    changed: Array  # (E, n), whether the answer is another one than full depth's
    flops: Array  # (E, n), what a text has cost by then
    threshold: int  # which of those that are sought


def best(stages: list[Stage], judge: Array, full: Array, share: float) -> float:
    """Times fewer FLOPs than full depth, at the best thresholds that change no more than this share
    of the answers."""
    found = 1.0
    for thresholds in product(_THRESHOLDS, repeat=1 + max(stage.threshold for stage in stages)):
        left, changed, flops = np.zeros(len(full), bool), np.zeros(len(full), bool), full.copy()
        for stage in stages:
            for k, unsure in enumerate(stage.unsure):
                goes = ~left & (unsure < thresholds[stage.threshold])
                changed[goes], flops[goes] = stage.changed[k, goes], stage.flops[k, goes]
                left |= goes
        if changed[judge].mean() <= share:
            found = max(found, float(full[judge].sum() / flops[judge].sum()))
    return round(found, 3)


@click.command()
@click.option("--model", "place", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True), help="Texts.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="JSON.")
@click.option("--share", default=0.01, show_default=True, help="Of answers that may change.")
def main(place: Path, data: str, output: Path, share: float) -> None:
    """See the top of this file."""
    model = load_model(place)
    examples, _ = read_examples([data], InputColumns("text"))
    tokens = Tokenizer(load_tokenizer(place), model.config.windowing)(
        examples.texts, None, model.config.max_length
    )
    windows, texts = tokens.apart()
    logits, cost = exit_logits(Engine(model, device()), windows), CostModel(model)
    exits, rows = len(logits), len(tokens)
    nth = np.arange(len(texts)) - np.searchsorted(texts, texts)  # of its text
    flops = np.stack(
        [cost.row_flops(windows.lengths, np.full(len(texts), k)) for k in range(exits)]
    )

    def of(values: Array) -> Array:
        """Sums over the windows of each text: (W,) to (n,)."""
        return np.bincount(texts, values, minlength=rows)

    def pooled(first: int) -> Array:
        """The mean of what each exit says of so many windows: (E, n, N)."""
        on = nth < first
        total = [[of(at[:, j] * on) for j in range(at.shape[1])] for at in logits]
        return np.array(total).transpose(0, 2, 1) / of(on)[:, None]

    whole, learn = pooled(rows), np.random.default_rng(0).random(rows) < 0.1
    full = of(cost.full_flops(windows.lengths).astype(float))

    def stage(numbers: Array, first: int, own: Array, others: Array, threshold: int = 0) -> Stage:
        """Of what some exits say (E, n, N), where the first windows have come to the exits `own`,
        and the others to the exits `others`."""
        said = np.concatenate([numbers, whole[-1:]]).astype(np.float32)
        outputs = ExitOutputs(said, np.zeros(rows, np.int64), model.task)
        soft = torch.tensor(fit_temperatures(outputs.take(learn)))[:, None, None]
        unsure = model.task.uncertainty(torch.from_numpy(said[:-1]) / soft).numpy()
        spent = [
            of(np.where(nth < first, flops[a], flops[b])) for a, b in zip(own, others, strict=True)
        ]
        return Stage(unsure, outputs.differs(outputs.answers[-1])[:-1], np.array(spent), threshold)

    every = np.arange(exits - 1)
    bag, deep = every[:1], every[1:]
    together = stage(whole[:-1], 1, every, every)
    found = {"together": best([together], ~learn, full, share)}
    for first in (1, 2):
        begun = np.append(deep, exits - 1)
        alone = stage(pooled(first)[1:], first, begun, np.zeros_like(begun), 1)
        then = stage(whole[1:-1], first, np.full_like(deep, exits - 1), deep)
        short = of(np.ones(len(texts))) <= first  # have no others, so they are read as together
        alone.unsure[:, short] = np.inf
        then.flops[:, short] = together.flops[1:, short]
        stages = [stage(whole[:1], 1, bag, bag), alone, then]
        found[f"first_{first}"] = best(stages, ~learn, full, share)
    result = {
        "program": "python -m benchmarks.quality.windows --model MODEL --data DATA --output "
        "benchmarks/results/windows.json",
        "texts": rows, "windows_per_text": round(len(texts) / rows, 2), "share": share,
        "flops_speedup": found, "machine": machine(),
    }  # fmt: skip
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
