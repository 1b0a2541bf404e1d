"""Which training makes rows leave earlier at the same promise?

Hypothesis: the paper's learning rate and epochs leave students half-trained; a higher rate is worth
more than temperature, labels or joint training.

    python -m benchmarks.quality.recipes --data DATA --sets banking77 \\
        --output benchmarks/results/recipes.json

Each set is fine-tuned once; every way of self-distilling starts from these weights. `joint`, the
paper's ablation, trains all branches on the labels instead. Judged on the test rows by accuracy at
full depth and the FLOPs at the threshold that changes exactly 1 % of the labels.
"""

import copy
import json
import logging
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from transformers import AutoTokenizer, set_seed

from benchmarks.support.measure import machine
from fastbert.calibration.evaluation import exit_outputs
from fastbert.calibration.points import sample_of
from fastbert.calibration.promises import furthest, make_path, speedup
from fastbert.encoders.pretrained import locate_backbone
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.model import FastBertForSequenceClassification
from fastbert.training.examples import Examples
from fastbert.training.recipes import Recipe
from fastbert.training.trainer import finetune, self_distil
from pipelines.checkpoints.settings import TrainSettings
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples

#: Passes over the labels; small sets and many classes want more.
EPOCHS = {"banking77": 5.0, "amazon_full": 3.0}
FINETUNE = Recipe(epochs=2, learning_rate=5e-5)
PAPER = Recipe(epochs=3, learning_rate=2e-4)
RECIPES = {
    "paper": PAPER,
    "paper, 9 epochs": replace(PAPER, epochs=9),
    "rate 1e-3": replace(PAPER, learning_rate=1e-3),
    "rate 1e-3, 9 epochs": replace(PAPER, learning_rate=1e-3, epochs=9),
    "rate 3e-3": replace(PAPER, learning_rate=3e-3),
    "rate 1e-3, temperature 2": replace(PAPER, learning_rate=1e-3, temperature=2.0),
    "rate 1e-3, labels 0.5": replace(PAPER, learning_rate=1e-3, hard_labels=0.5),
}
CRITERIA = ("entropy", "top-entropy", "max-probability", "margin")
SHARE = 0.01


def judge(model: FastBertForSequenceClassification, tokenizer: Any, test: Examples) -> Any:
    """Accuracy and agreement of each exit, and FLOPs at 1 % of other labels by criterion."""
    tokens = Tokenizer(tokenizer)(test.texts, None, model.config.max_length)
    outputs, cost = exit_outputs(Engine(model), tokens), CostModel(model)
    known = sample_of(outputs, None, cost, (), "fp32")

    def fastest(criterion: str) -> float:
        allowed = math.floor(SHARE * len(test))
        path = make_path(known, criterion, np.ones(len(model.exits), bool), known)
        return speedup(known, furthest(known, path, allowed))

    return {
        "accuracy": [float(share) for share in (outputs.answers["label"] == test.labels).mean(1)],
        "agreement": [float(share) for share in 1 - known.fails.mean(1)],
        "flops_speedup": {criterion: fastest(criterion) for criterion in CRITERIA},
    }


def run_set(name: str, data: Path, train_rows: int, test_rows: int) -> dict[str, Any]:
    """All recipes on one set."""
    columns = InputColumns(labels=("label",))
    train, labels = read_examples([str(data / name / "train.parquet")], columns, sample=train_rows)
    test, _ = read_examples([str(data / name / "test.parquet")], columns, labels, sample=test_rows)
    backbone = TrainSettings.backbone
    tokenizer = AutoTokenizer.from_pretrained(locate_backbone(backbone))
    set_seed(0)
    model = FastBertForSequenceClassification.from_backbone(backbone, labels, max_length=128)
    start = copy.deepcopy(model)
    steps = replace(FINETUNE, epochs=EPOCHS.get(name, FINETUNE.epochs))
    finetune(model, tokenizer, train, recipe=steps)
    found: dict[str, Any] = {
        "train_rows": len(train), "test_rows": len(test), "classes": len(labels),
        "finetune": asdict(steps), "recipes": {},
    }  # fmt: skip

    def tell(name: str, recipe: Recipe, trained: Any, started: float) -> None:
        result = judge(trained, tokenizer, test)
        result |= {"recipe": asdict(recipe), "seconds": round(time.monotonic() - started)}
        found["recipes"][name] = result
        print(name, result["accuracy"][-1], result["flops_speedup"], flush=True)

    for title, recipe in RECIPES.items():
        started, student = time.monotonic(), copy.deepcopy(model)
        self_distil(student, tokenizer, train, recipe)
        tell(title, recipe, student, started)
    started, joint = time.monotonic(), replace(steps, joint=True)
    finetune(start, tokenizer, train, recipe=joint)
    tell("joint", joint, start, started)
    return found


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--sets", required=True, multiple=True)
@click.option("--train-rows", default=10_000, show_default=True)
@click.option("--test-rows", default=5_000, show_default=True)
def main(data: Path, output: Path, sets: tuple[str, ...], train_rows: int, test_rows: int) -> None:
    """See the top of this file."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    found: dict[str, Any] = {"sets": {}}
    if output.exists():
        found = json.loads(output.read_text())  # sets that were run before
    for name in sets:
        found["sets"][name] = run_set(name, data, train_rows, test_rows)
        found["machine"] = machine()
        found["program"] = (
            "python -m benchmarks.quality.recipes --data DATA "
            "--output benchmarks/results/recipes.json "
            + " ".join(f"--sets {name}" for name in found["sets"])
            + f" --train-rows {train_rows} --test-rows {test_rows}"
        )
        output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
