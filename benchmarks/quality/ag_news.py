"""AG News from raw rows to a table of speeds.

Hypothesis: a MiniLM fine-tuned and self-distilled on a quarter of AG News reaches 0.915 at full
depth, and at speed 0.5 loses at most half a point with at most 1.6 of 6 layers on average.

    python -m benchmarks.quality.ag_news --data DIR --work DIR \\
        --output benchmarks/results/ag_news.json

DIR has train.parquet and test.parquet with the columns text and label. The test set is used once,
for this table: training has no development set and keeps the last epoch. Without --retrain a
checkpoint that --work already holds is evaluated as it is.
"""

import json
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq

from benchmarks.support.measure import machine
from fastbert.checkpoint import fingerprint
from pipelines.checkpoints.evaluate import evaluate
from pipelines.checkpoints.settings import EvaluateSettings, TrainSettings
from pipelines.checkpoints.train import train

TRAINING: dict[str, Any] = {
    **{"epochs": 1.0, "learning_rate": 5e-5, "max_length": 128},
    **{"distil_epochs": 5.0, "distil_learning_rate": 1e-3},
}
SPEEDS = (0.1, 0.3, 0.4, 0.5, 0.8)


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--retrain", is_flag=True)
def main(data: Path, work: Path, output: Path, retrain: bool) -> None:
    """Train, evaluate, write JSON."""
    print(machine("ray"))
    options = " ".join(f"--{k.replace('_', '-')} {v:g}" for k, v in TRAINING.items())
    if retrain or not (work / "config.json").exists():
        train(TrainSettings(train=(str(data / "train.parquet"),), output=str(work), **TRAINING))
    found = evaluate(
        EvaluateSettings(model=str(work), data=(str(data / "test.parquet"),), speeds=SPEEDS)
    )
    result = {
        "commands": [
            f"python jobs/train.py --train ag_news/train.parquet --output models/ag_news {options}",
            "python jobs/evaluate.py --model models/ag_news --data ag_news/test.parquet "
            + " ".join(f"--speeds {speed:g}" for speed in SPEEDS),
        ],
        "program": "python -m benchmarks.quality.ag_news --data ag_news --work models/ag_news "
        "--output benchmarks/results/ag_news.json --retrain",
        "machine": machine("ray"),
        "checkpoint": fingerprint(work)[:12],
        "train_rows": pq.read_metadata(data / "train.parquet").num_rows,
    } | {k: v for k, v in found.items() if k != "model"}
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
