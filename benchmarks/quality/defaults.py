"""How good is a model of `fastbert train` with no option except data and columns?

Hypothesis: on six published sets as good as with settings chosen by hand (docs/results.md), for at
most half as many tokens again; and from 200 rows no worse than a linear model.

    python -m benchmarks.quality.defaults --data DATA --work WORK \\
        --output benchmarks/results/defaults.json --sets banking77 --seeds 0

DATA holds a folder per set, with train.parquet and test.parquet. Each set and seed is one training,
kept as one entry of the JSON; what is there is not run again. `sms_spam_200` and
`yelp_polarity_sent_200` are 200 rows drawn with the seed, also given to logistic regression on
TF-IDF of words and pairs of words (scikit-learn).
"""

import json
import logging
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.support.measure import machine
from fastbert.calibration.evaluation import exit_outputs, outcome
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.checkpoints.settings import TrainSettings
from pipelines.checkpoints.train import train
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples

#: Where not "label".
LABELS = {"clinc150_two": "intent"}
#: Where not the published test rows: CLINC150's has four times as many out-of-scope rows as its
#: training rows would let expect.
SPLITS = {"clinc150_two": "dev"}
#: Rows drawn of a set for training.
FEW = {"sms_spam_200": ("sms_spam", 200), "yelp_polarity_sent_200": ("yelp_polarity_sent", 200)}
SETS = (
    *("clinc150_two", "ag_news", "banking77", "goemotions", "yelp_polarity_sent", "chnsenticorp"),
    *FEW,
)


def linear_accuracy(train_file: Path, test_file: Path, label: str) -> float:
    """Of logistic regression on TF-IDF, with scikit-learn's defaults."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    known, asked = (pq.read_table(file).to_pydict() for file in (train_file, test_file))
    linear = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    linear.fit(known["text"], known[label])
    return float(linear.score(asked["text"], asked[label]))


def run(name: str, seed: int, data: Path, work: Path, backbone: str | None) -> dict[str, Any]:
    """Train with defaults, and look at the test rows."""
    source, few = FEW.get(name, (name, None))
    label = LABELS.get(name, "label")
    train_file = data / source / "train.parquet"
    test_file = data / source / f"{SPLITS.get(name, 'test')}.parquet"
    model_folder = work / f"{name}.{seed}"
    if few:
        rows = pq.read_table(train_file)
        drawn = np.random.default_rng(seed).permutation(len(rows))[:few]
        train_file = work / f"{name}.{seed}.parquet"
        pq.write_table(rows.take(pa.array(drawn)), train_file)
    given = {"backbone": backbone} if backbone else {}
    settings = TrainSettings(
        train=(str(train_file),),
        output=str(model_folder),
        label_column=(label,),
        seed=seed,
        **given,
    )
    summary = train(settings)
    model = load_model(model_folder)
    config, engine = model.config, Engine(model)
    test, _ = read_examples([str(test_file)], InputColumns(labels=(label,)), config.label_names)
    tokens = Tokenizer(load_tokenizer(model_folder))(test.texts, None, config.max_length)
    outputs, truth = exit_outputs(engine, tokens), np.asarray(test.labels)
    point = OperatingPoint.asked(config, None if config.default_operating_point else 0.0, None)
    fares, deep = (
        outcome(outputs, CostModel(model), each.rule(), truth)
        for each in (point, OperatingPoint.of_speed(0.0, config))
    )
    kept = ("rows", "epochs", "distil_epochs", "max_length", "truncated_rows", "seconds", "device",
            "dev_rows", "dev_accuracy", "dev_accuracy_bound", "dev_majority")  # fmt: skip
    return {
        "set": name,
        "seed": seed,
        "trained": {key: summary.get(key) for key in kept},
        "exit_code": summary.get("exit_code", 0),
        "test_rows": len(test),
        "mean_tokens": float(tokens.lengths.mean()),
        "accuracy": deep.quality["accuracy"],
        "point": point.name,
        "accuracy_at_point": fares.quality["accuracy"],
        "agreement_at_point": fares.agreement,
        "flops_speedup_at_point": fares.flops_speedup,
        "linear_accuracy": linear_accuracy(train_file, test_file, label) if few else None,
        "machine": machine("scikit-learn"),
    }


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--sets", multiple=True, type=click.Choice(SETS), default=SETS)
@click.option("--seeds", multiple=True, type=int, default=(0, 1, 2))
@click.option("--backbone", help="In place of the packaged one, as for another number format.")
@click.option("--chinese-backbone", help="Of chnsenticorp: see chinese_bert.py.")
def main(
    data: Path,
    work: Path,
    output: Path,
    sets: tuple[str, ...],
    seeds: tuple[int, ...],
    backbone: str | None,
    chinese_backbone: str | None,
) -> None:
    """See the top of this file."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    work.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = json.loads(output.read_text())["runs"] if output.exists() else []
    for seed in seeds:
        for name in sets:
            if any((each["set"], each["seed"]) == (name, seed) for each in runs):
                continue
            given = chinese_backbone if name == "chnsenticorp" else backbone
            runs.append(run(name, seed, data, work, given))
            print({k: v for k, v in runs[-1].items() if k != "machine"}, flush=True)
            program = (
                "python -m benchmarks.quality.defaults --data DATA --work WORK --output OUTPUT"
                + (f" --backbone {Path(backbone).name}" if backbone else "")
                + (f" --chinese-backbone {Path(chinese_backbone).name}" if chinese_backbone else "")
            )
            found = {"program": program, "runs": runs}
            output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
