"""The paper's Table 2 laid out again.

For each data set: train, run every exit on the test rows once, and keep what the exits said
(WORK/<set>/outputs.npz, for promises.py) and a JSON with the paper's columns (full depth, fixed
depth, speeds) and those of figures 3 to 5.

    python -m benchmarks.quality.paper --data DATA --work WORK \\
        --output benchmarks/results/paper --sets mrpc

DATA holds a folder per set, with train.parquet and test.parquet. A dev.parquet joins the rows to
calibrate on: nothing is tuned on it, epochs are fixed. --sets may be repeated; default are all that
are there. A model that WORK holds already is not trained again. Other backbones:

    python -m benchmarks.quality.chinese_bert --data DATA --output WORK/chinese_bert \\
        --sets thucnews10
    python -m benchmarks.quality.paper ... --sets douban_book_review --backbone WORK/chinese_bert
    python -m benchmarks.quality.paper ... --backbone bert-base-uncased

--recipe trains in another way, for Table 3; its files have its name.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq

from benchmarks.support.measure import machine
from fastbert.calibration.evaluation import (
    ExitOutputs,
    exit_outputs,
    outcome,
)
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.precision import device
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.checkpoints.settings import TrainSettings
from pipelines.checkpoints.train import train
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples

#: Passes over the labels: small sets and many classes want more. Everything else is one recipe.
EPOCHS = {"ag_news": 1, "banking77": 8, "imdb": 1, "mrpc": 4, "sms_spam": 4, "yahoo_2of10": 4}
DEFAULT_EPOCHS, LEARNING_RATE = 2, 5e-5
#: Ways to train, by name: further options of jobs/train.py.
_DISTIL = {"distil_epochs": 5.0, "distil_learning_rate": 1e-3, "max_length": 128}
RECIPES: dict[str, dict[str, Any]] = {
    "default": _DISTIL,
    "paper": _DISTIL | {"distil_learning_rate": 2e-4},
    "joint": _DISTIL | {"joint": True, "distil_epochs": 0.0},
}
PAIRS = {"mrpc"}
SPEEDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BINS = 10
#: Rows that are looked at, drawn at random where there are more: IMDb has 25,000 to test on.
MOST_TEST_ROWS, MOST_DEV_ROWS = 10_000, 5_000


def options_of(
    name: str, recipe: str, backbone: str | None, learning_rate: float
) -> dict[str, Any]:
    """How a set is trained: fields of TrainSettings that are not what they are by default."""
    return (
        ({"backbone": backbone} if backbone else {})
        | ({"pair_column": "text_pair"} if name in PAIRS else {})
        | {"epochs": float(EPOCHS.get(name, DEFAULT_EPOCHS)), "learning_rate": learning_rate}
        | RECIPES[recipe]
    )


def command_of(name: str, options: dict[str, Any]) -> str:
    """The same as a command; a folder is called by its name."""
    words = [f"python jobs/train.py --train {name}/train.parquet --output models/{name}"]
    if "backbone" in options:
        options = options | {"backbone": named(options["backbone"])}
    for key, value in options.items():
        option = f"--{key.replace('_', '-')}"
        words.append(option if value is True else f"{option} {value:g}" if isinstance(value, float)
                     else f"{option} {value}")  # fmt: skip
    return " ".join(words)


def named(backbone: str) -> str:
    """A backbone without the folder that it lies in, or its id on the hub."""
    return Path(backbone).name if Path(backbone).is_dir() else backbone


def fixed_depth(outputs: ExitOutputs, cost: CostModel, exit: int, truth: np.ndarray) -> Any:
    """Everybody leaves at one exit, and no other head is computed."""
    lengths = outputs.lengths
    labels = outputs.answers["label"]
    flops = cost.using(np.array([exit])).row_flops(lengths, np.full(len(lengths), exit))
    return {
        "layers": cost.exits[exit].depth,
        "accuracy": float((labels[exit] == truth).mean()),
        "agreement": float((labels[exit] == labels[-1]).mean()),
        "flops_speedup": float(cost.full_flops(lengths).sum() / flops.sum()),
    }


def certainty_bins(outputs: ExitOutputs, truth: np.ndarray) -> list[list[list[float]]]:
    """Figure 4: of each exit and tenth of uncertainty, rows and accuracy (0 without rows)."""
    found = []
    for labels, uncertainties in zip(outputs.answers["label"], outputs.uncertainties, strict=True):
        bins = np.minimum((uncertainties * BINS).astype(int), BINS - 1)
        right = labels == truth
        found.append(
            [[int((bins == b).sum()), float(right[bins == b].mean()) if (bins == b).any() else 0.0]
             for b in range(BINS)]
        )  # fmt: skip
    return found


def run_set(name: str, data: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Train if need be, and measure."""
    files = [str(data / name / f"{split}.parquet") for split in ("train", "test", "dev")]
    if not (folder / "model" / "config.json").exists():
        train(TrainSettings(train=(files[0],), output=str(folder / "model"), **options))
    model, tokenizer = load_model(folder / "model"), load_tokenizer(folder / "model")
    config = model.config
    columns = InputColumns("text", options.get("pair_column"), labels=("label",))
    test, _ = read_examples([files[1]], columns, config.label_names, MOST_TEST_ROWS)
    known = [test]
    if Path(files[2]).exists():
        known.append(read_examples([files[2]], columns, config.label_names, MOST_DEV_ROWS)[0])
    texts = [text for examples in known for text in examples.texts]
    pairs = [pair for examples in known for pair in examples.pairs or []]
    truth = np.array([label for examples in known for label in examples.labels or []])
    tokens = Tokenizer(tokenizer)(texts, pairs or None, config.max_length)
    cost = CostModel(model)
    all_outputs = exit_outputs(Engine(model, device()), tokens)
    np.savez_compressed(
        folder / "outputs.npz",
        logits=all_outputs.logits.astype(np.float16),
        lengths=tokens.lengths,
        truth=truth,
    )
    rows = np.arange(len(test))
    outputs, truth_of_test = all_outputs.take(rows), truth[rows]
    rules = {speed: OperatingPoint.of_speed(speed, config).rule() for speed in SPEEDS}
    return {
        "command": command_of(name, options),
        "machine": machine(),
        "backbone": named(options.get("backbone", TrainSettings.backbone)),
        "layers": cost.encoder.depth,
        "train_rows": pq.read_metadata(files[0]).num_rows,
        "rows": len(rows),
        "rows_with_dev": len(truth),
        "classes": config.label_names,
        "mean_tokens": float(outputs.lengths.mean()),
        "full_flops_per_row": float(cost.full_flops(outputs.lengths).mean()),
        "fixed": [
            fixed_depth(outputs, cost, exit, truth_of_test) for exit in range(len(cost.exits))
        ],
        "speeds": [
            {"speed": speed} | outcome(outputs, cost, rules[speed], truth_of_test).summary()
            for speed in SPEEDS
        ],
        "certainty_bins": certainty_bins(outputs, truth_of_test),
    }


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="A folder.")
@click.option("--sets", multiple=True)
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="default", show_default=True)
@click.option("--backbone", help="A hub id or a folder. Default: jobs/train.py's.")
@click.option("--learning-rate", default=LEARNING_RATE, show_default=True, help="Of fine-tuning.")
def main(
    data: Path,
    work: Path,
    output: Path,
    sets: tuple[str, ...],
    recipe: str,
    backbone: str | None,
    learning_rate: float,
) -> None:
    """See the top of this file."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    output.mkdir(parents=True, exist_ok=True)
    suffix = "" if recipe == "default" else f".{recipe}"
    for name in sets or sorted(path.parent.name for path in data.glob("*/test.parquet")):
        folder = work / f"{name}{suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        options = options_of(name, recipe, backbone, learning_rate)
        found = run_set(name, data, folder, options)
        found["seconds"] = round(time.monotonic() - started)
        (output / f"{name}{suffix}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(name, recipe, found["seconds"], "s", found["fixed"][-1], flush=True)


if __name__ == "__main__":
    main()
