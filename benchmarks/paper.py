"""The paper's Table 2 laid out again, and what the calibrated point adds to it.

For each data set: fine-tune, self-distil, run every layer on the test rows once, and keep what the
layers said (WORK/<set>/outputs.npz) and a JSON with the paper's columns (full depth, fixed depth,
speeds 0.1, 0.5 and 0.8), those of figures 3 to 5, and the points that calibration chooses.

    python benchmarks/paper.py --data DATA --work WORK --output benchmarks/paper --sets mrpc

DATA holds a folder per set, with train.parquet and test.parquet (and dev.parquet, unused: epochs
are fixed). --sets may be repeated; default are all that are there. A model that WORK holds already
is not trained again.
"""

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
from measure import machine
from promises import OFFERS

from fastbert.calibration import keep_promise
from fastbert.checkpoint import load_model, load_tokenizer
from fastbert.engine import Engine
from fastbert.evaluation import LayerOutputs, exit_layers, layer_outputs, outcome
from fastbert.flops import CostModel
from fastbert.operating_point import Promise
from fastbert.tokenizer import Tokenizer
from pipelines.corpus import Columns, read_examples
from pipelines.settings import TrainSettings
from pipelines.train import train

#: Passes over the labels: small sets and many classes want more. Everything else is one recipe.
EPOCHS = {"ag_news": 1, "banking77": 8, "imdb": 1, "mrpc": 4, "sms_spam": 4, "yahoo_2of10": 4}
DEFAULT_EPOCHS, LEARNING_RATE = 2, 5e-5
DISTIL_EPOCHS, DISTIL_LEARNING_RATE = 3, 2e-4
PAIRS = {"mrpc"}
SPEEDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BINS = 10
#: Test rows that are looked at, the first ones: IMDb has 25,000.
MOST_ROWS = 10_000


def settings_of(name: str, data: Path, work: Path) -> TrainSettings:
    """How a set is trained."""
    return TrainSettings(
        train=(str(data / name / "train.parquet"),),
        output=str(work / name / "model"),
        pair_column="text_pair" if name in PAIRS else None,
        epochs=EPOCHS.get(name, DEFAULT_EPOCHS),
        learning_rate=LEARNING_RATE,
        distil_epochs=DISTIL_EPOCHS,
        distil_learning_rate=DISTIL_LEARNING_RATE,
    )


def command_of(name: str) -> str:
    """The same as a command."""
    pair = " --pair-column text_pair" if name in PAIRS else ""
    return (
        f"python jobs/train.py --train {name}/train.parquet --output models/{name}{pair} "
        f"--epochs {EPOCHS.get(name, DEFAULT_EPOCHS):g} --learning-rate {LEARNING_RATE:g} "
        f"--distil-epochs {DISTIL_EPOCHS:g} --distil-learning-rate {DISTIL_LEARNING_RATE:g}"
    )


def fixed_depth(outputs: LayerOutputs, cost: CostModel, layer: int, truth: np.ndarray) -> Any:
    """Everybody leaves at one layer, and no other branch is computed."""
    lengths = outputs.lengths
    flops = layer * cost.layer_flops(lengths) + cost.branch_flops(lengths)
    return {
        "layers": layer,
        "accuracy": float((outputs.labels[layer - 1] == truth).mean()),
        "agreement": float((outputs.labels[layer - 1] == outputs.labels[-1]).mean()),
        "flops_speedup": float(cost.full_flops(lengths).sum() / flops.sum()),
    }


def certainty_bins(outputs: LayerOutputs, truth: np.ndarray) -> list[list[list[float]]]:
    """Figure 4: of each layer and tenth of uncertainty, rows and accuracy (0 without rows)."""
    found = []
    for labels, uncertainties in zip(outputs.labels, outputs.uncertainties(), strict=True):
        bins = np.minimum((uncertainties * BINS).astype(int), BINS - 1)
        right = labels == truth
        found.append(
            [[int((bins == b).sum()), float(right[bins == b].mean()) if (bins == b).any() else 0.0]
             for b in range(BINS)]
        )  # fmt: skip
    return found


def calibrated(
    outputs: LayerOutputs, cost: CostModel, truth: np.ndarray, share: float
) -> dict[str, Any]:
    """The points that half of the rows promise, on the other half."""
    order = np.random.default_rng(0).permutation(len(truth))
    sample, rest = order[: len(order) // 2], order[len(order) // 2 :]
    fails = outputs.labels != outputs.labels[-1]
    found: dict[str, Any] = {}
    for name, offer in OFFERS.items():
        chosen = keep_promise(
            outputs.take(sample), fails[:, sample], cost, Promise(share, 0.95), *offer
        )
        if chosen is None:
            found[name] = None
            continue
        judge = outputs.take(rest)
        exits = exit_layers(judge.uncertainties(chosen.criterion), chosen.thresholds)
        labels = judge.labels[exits - 1, np.arange(len(rest))]
        flops = cost.row_flops(judge.lengths, exits).sum()
        found[name] = {
            "criterion": chosen.criterion,
            "thresholds": chosen.thresholds,
            "sample": chosen.rows,
            "disagreement": float((labels != judge.labels[-1]).mean()),
            "accuracy": float((labels == truth[rest]).mean()),
            "accuracy_at_full_depth": float((judge.labels[-1] == truth[rest]).mean()),
            "flops_speedup": float(cost.full_flops(judge.lengths).sum() / flops),
        }
    return found


def run_set(name: str, data: Path, work: Path) -> dict[str, Any]:
    """Train if need be, and measure."""
    started = time.monotonic()
    folder = work / name
    if not (folder / "model" / "config.json").exists():
        train(settings_of(name, data, work))
    model, tokenizer = load_model(folder / "model"), load_tokenizer(folder / "model")
    columns = Columns("text", "text_pair" if name in PAIRS else None, "label")
    examples, _ = read_examples(
        [str(data / name / "test.parquet")], columns, model.config.label_names
    )
    pairs = None if examples.pairs is None else examples.pairs[:MOST_ROWS]
    tokens = Tokenizer(tokenizer)(examples.texts[:MOST_ROWS], pairs, model.config.max_length)
    truth = np.asarray(examples.labels)[:MOST_ROWS]
    outputs = layer_outputs(Engine(model), tokens)
    np.savez_compressed(
        folder / "outputs.npz", log_p=outputs.log_p.astype(np.float16), lengths=outputs.lengths,
        truth=truth,
    )  # fmt: skip
    cost = CostModel.of(model.config)
    layers = range(1, cost.layers + 1)
    return {
        "commands": [
            command_of(name),
            f"python benchmarks/paper.py --data DATA --work WORK --output benchmarks/paper "
            f"--sets {name}",
        ],
        "machine": machine(),
        "train_rows": pq.read_metadata(data / name / "train.parquet").num_rows,
        "rows": len(truth),
        "classes": model.config.label_names,
        "tokens": int(tokens.lengths.sum()),
        "fixed": [fixed_depth(outputs, cost, layer, truth) for layer in layers],
        "speeds": [
            {"speed": speed} | vars(outcome(outputs, cost, speed, truth)) for speed in SPEEDS
        ],
        "certainty_bins": certainty_bins(outputs, truth),
        "calibrated": {
            f"{share:g}": calibrated(outputs, cost, truth, share) for share in (0.01, 0.02)
        },
        "seconds": round(time.monotonic() - started),
    }


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="A folder.")
@click.option("--sets", multiple=True)
def main(data: Path, work: Path, output: Path, sets: tuple[str, ...]) -> None:
    """See the top of this file."""
    output.mkdir(parents=True, exist_ok=True)
    for name in sets or sorted(path.parent.name for path in data.glob("*/test.parquet")):
        (work / name).mkdir(parents=True, exist_ok=True)
        found = run_set(name, data, work)
        (output / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        best = found["calibrated"]["0.01"]
        print(name, {k: v and round(v["flops_speedup"], 2) for k, v in best.items()}, flush=True)


if __name__ == "__main__":
    main()
