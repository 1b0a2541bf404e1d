"""Several labels and scores on real data: what full depth is worth, and what a promise saves.

Hypothesis: rows leave early enough to pay for these kinds of questions, too, and promises about
them are kept as often as those about labels: at most one point in twenty breaks its own.

For each data set: train with no option of the recipe, run every exit on the test rows once, then
calibrate on half of them 200 times, and look at the other half; the clock runs full depth and the
first of these points on the other half, in turn.

    python -m benchmarks.quality.kinds --data DATA --work WORK \\
        --output benchmarks/results/kinds.json --sets goemotions_multi

DATA holds a folder per set with train.parquet and test.parquet; a dev.parquet joins the rows to
calibrate on. --sets may be repeated. A model that WORK holds already is not trained again; sets
that are in the output and not asked for stay in it.
"""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.quality.promises import CONFIDENCE, cover
from benchmarks.support.measure import machine
from fastbert.calibration.evaluation import exit_outputs, outcome, realised_speedups
from fastbert.calibration.points import promised_point, sample_of
from fastbert.exits.operating_point import OperatingPoint, Promise
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.precision import device
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.checkpoints.settings import TrainSettings
from pipelines.checkpoints.train import train
from pipelines.input.columns import InputColumns
from pipelines.input.examples import Known, read_labelled


@dataclass(frozen=True)
class Asked:
    """A promise."""

    share: float
    criterion: str
    within: tuple[float, ...] = ()


#: By set: the column of the truth, and what is promised.
SETS: dict[str, tuple[str, list[Asked]]] = {
    "goemotions_multi": ("labels", [Asked(0.02, "tempered-entropy"), Asked(0.02, "entropy")]),
    "yelp_stars": ("score", [Asked(0.01, "cutoff", (2.5, 3.5)), Asked(0.05, "tolerance", (0.25,))]),
    "clear_readability": (
        "score",
        [Asked(0.05, "tolerance", (0.25,)), Asked(0.05, "cutoff", (-1.0,))],
    ),
}
#: Rows that the clock sees.
TIMED_ROWS = 1000


def run_set(name: str, data: Path, folder: Path, splits: int) -> dict[str, Any]:
    """Train if need be, and measure."""
    column, promises = SETS[name]
    files = {split: data / name / f"{split}.parquet" for split in ("train", "test", "dev")}
    if not (folder / "model" / "config.json").exists():
        settings = TrainSettings(
            train=(str(files["train"]),), label_column=(column,), output=str(folder / "model")
        )
        summary = train(settings)
        (folder / "train.json").write_text(json.dumps(summary))
    model, tokenizer = load_model(folder / "model"), load_tokenizer(folder / "model")
    config = model.config
    columns, kind = InputColumns("text", labels=(column,)), config.question.kind
    there = [str(files[split]) for split in ("test", "dev") if files[split].exists()]
    known, _ = read_labelled(there, columns, [Known(kind, config.label_names)])
    truth = np.asarray(known.labels)
    tokens = Tokenizer(tokenizer)(known.texts, None, config.max_length)
    engine, cost = Engine(model, device()), CostModel(model)
    outputs = exit_outputs(engine, tokens)
    np.savez_compressed(
        folder / "outputs.npz", logits=outputs.logits, lengths=tokens.lengths, truth=truth
    )
    full = OperatingPoint.of_speed(0.0, config).rule()
    found: dict[str, Any] = {
        "kind": kind,
        "rows": len(truth),
        "classes": len(config.label_names),
        "max_length": config.max_length,
        "mean_tokens": round(float(tokens.lengths.mean()), 1),
        "full_depth": outcome(outputs, cost, full, truth).quality,
        "promises": [],
    }
    order = np.random.default_rng(0).permutation(len(truth))
    sample, rest = order[: len(order) // 2], order[len(order) // 2 :]
    for asked in promises:
        made = cover(
            *(outputs, cost, asked.share, (asked.criterion,), "0-", splits, asked.within, truth)
        )
        one = sample_of(outputs.take(sample), None, cost, (), "fp32", asked.within)
        point = promised_point(one, Promise(asked.share, CONFIDENCE, len(rest)), asked.criterion)
        timed = tokens.take(np.sort(rest[:TIMED_ROWS]))
        (clock,) = realised_speedups(engine, timed, [point], 5)
        said = {"share": asked.share, "criterion": asked.criterion, "within": list(asked.within)}
        found["promises"].append(said | made | {"on_the_clock": round(clock, 3)})
    return found


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="JSON.")
@click.option("--sets", multiple=True, default=tuple(SETS), type=click.Choice(list(SETS)))
@click.option("--splits", default=200, show_default=True)
def main(data: Path, work: Path, output: Path, sets: tuple[str, ...], splits: int) -> None:
    """See the top of this file."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    before = json.loads(output.read_text())["sets"] if output.exists() else {}
    found: dict[str, Any] = {
        "program": "python -m benchmarks.quality.kinds --data DATA --work WORK --output "
        f"benchmarks/results/kinds.json --splits {splits}",
        "splits": splits,
        "confidence": CONFIDENCE,
        "sets": before,
    }
    for name in sets:
        started = time.monotonic()
        folder = work / name
        folder.mkdir(parents=True, exist_ok=True)
        result = run_set(name, data, folder, splits)
        result |= {"machine": machine(), "seconds": round(time.monotonic() - started)}
        found["sets"][name] = result
        output.write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(result, indent=1), flush=True)


if __name__ == "__main__":
    main()
