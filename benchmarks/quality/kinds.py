"""Several labels, scores and several questions on real data: what full depth is worth, and what a
promise saves.

Hypothesis: rows leave early enough to pay for these kinds of questions, too, and promises about
them are kept as often as those about labels: at most one point in twenty breaks its own.

For each data set: train with no option of the recipe, unless some are given, run every exit on the
test rows once, then calibrate on half of them 200 times, and look at the other half; the clock runs
full depth and the first of these points on the other half, in turn.

    python -m benchmarks.quality.kinds --data DATA --work WORK \\
        --output benchmarks/results/kinds.json --sets goemotions_multi

DATA holds a folder per set with train.parquet and test.parquet; a dev.parquet joins the rows to
calibrate on. --sets may be repeated. A model that WORK holds already is not trained again; sets
that are in the output and not asked for stay in it.
"""

import json
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pyarrow.parquet as pq

from benchmarks.quality.promises import CONFIDENCE, cover
from benchmarks.support.measure import machine
from fastbert.calibration.evaluation import outcome, question_outputs, realised_speedups
from fastbert.calibration.points import promised_point, sample_of, together
from fastbert.exits.operating_point import OperatingPoint, Promise
from fastbert.inference.cost import CostModel
from fastbert.inference.decisions import exits_used
from fastbert.inference.engine import Engine
from fastbert.inference.precision import device
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.checkpoints.settings import TrainSettings
from pipelines.checkpoints.train import train
from pipelines.input.columns import InputColumns
from pipelines.input.examples import known_of, read_labelled


@dataclass(frozen=True)
class Asked:
    """A promise."""

    share: float
    criterion: str
    within: tuple[float, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """How a set is learnt, and what is promised of each question."""

    columns: tuple[str, ...]
    promises: list[Asked]
    #: Of training, where it is not as by default: fields of TrainSettings.
    options: dict[str, Any] = field(default_factory=dict)
    #: Rows of each file, drawn with seed 13. None: all.
    rows: int | None = None


_ONE_PERCENT = [Asked(0.01, "tempered-entropy")]
SETS = {
    "goemotions_multi": DataSet(
        ("labels",), [Asked(0.02, "tempered-entropy"), Asked(0.02, "entropy")]
    ),
    "yelp_stars": DataSet(
        ("score",), [Asked(0.01, "cutoff", (2.5, 3.5)), Asked(0.05, "tolerance", (0.25,))]
    ),
    "clear_readability": DataSet(
        ("score",), [Asked(0.05, "tolerance", (0.25,)), Asked(0.05, "cutoff", (-1.0,))]
    ),
    "clinc150_two": DataSet(("domain", "intent"), _ONE_PERCENT),
    "clinc150_domain": DataSet(("domain",), _ONE_PERCENT),
    "clinc150_intent": DataSet(("intent",), _ONE_PERCENT),
    "imdb_windows": DataSet(("label",), _ONE_PERCENT, {"max_length": 128, "windows": "all"}, 5_000),
    "imdb_whole": DataSet(("label",), _ONE_PERCENT, {"max_length": 512}, 5_000),
}
#: Sets that are another one's rows.
FOLDERS = {
    **dict.fromkeys(("clinc150_domain", "clinc150_intent"), "clinc150_two"),
    **dict.fromkeys(("imdb_windows", "imdb_whole"), "imdb"),
}
#: One pass for two questions, and a pass for each.
_PASSES = ("clinc150_two", "clinc150_domain", "clinc150_intent")
#: Rows that the clock sees.
TIMED_ROWS = 1000


def draw(path: Path, rows: int, folder: Path) -> Path:
    """Some rows of a file, if there is one, in a folder."""
    if not path.exists():
        return path
    table = pq.read_table(path)
    chosen = np.random.default_rng(13).choice(len(table), rows, replace=False)
    pq.write_table(table.take(np.sort(chosen)), folder / path.name)
    return folder / path.name


def run_set(
    name: str, data: Path, folder: Path, splits: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Train if need be, and measure; of several questions, each of them, and all together."""
    asked_of = SETS[name]
    place = data / FOLDERS.get(name, name)
    files = {split: place / f"{split}.parquet" for split in ("train", "test", "dev")}
    if asked_of.rows:
        files = {split: draw(path, asked_of.rows, folder) for split, path in files.items()}
    if not (folder / "model" / "config.json").exists():
        settings = TrainSettings(
            train=(str(files["train"]),),
            label_column=asked_of.columns,
            output=str(folder / "model"),
            **asked_of.options | options,
        )
        summary = train(settings)
        (folder / "train.json").write_text(json.dumps(summary))
    model, tokenizer = load_model(folder / "model"), load_tokenizer(folder / "model")
    config = model.config
    columns = InputColumns("text", labels=asked_of.columns)
    there = [str(files[split]) for split in ("test", "dev") if files[split].exists()]
    known, _ = read_labelled(there, columns, known_of(model.questions))
    targets = np.asarray(known.labels)
    tokens = Tokenizer(tokenizer, config.windowing)(known.texts, None, config.max_length)
    engine, cost = Engine(model, device()), CostModel(model)
    outputs = question_outputs(engine, tokens)
    found: dict[str, Any] = {
        "options": options,
        "rows": len(tokens),
        "max_length": config.max_length,
        "mean_tokens": round(float(tokens.lengths.mean()), 1),
        "questions": {},
    }
    order = np.random.default_rng(0).permutation(len(tokens))
    sample, rest = order[: len(order) // 2], order[len(order) // 2 :]
    timed = tokens.take(np.sort(rest[:TIMED_ROWS]))
    points: dict[str, OperatingPoint] = {}
    exits = []
    for question, said in zip(model.questions, outputs, strict=True):
        truth = model.questions.targets(question, targets)
        if truth.ndim == 2 and question.task.question.kind == "single-label":
            truth = truth.argmax(1)
        deepest = OperatingPoint.of_speed(0.0, config).each()[len(points)].rule()
        of = found["questions"][question.name] = {
            "kind": question.task.question.kind,
            "classes": len(question.task.names),
            "full_depth": outcome(said, cost, deepest, truth).quality,
            "promises": [],
        }
        for asked in asked_of.promises:
            made = cover(
                *(said, cost, asked.share, (asked.criterion,), "0-", splits, asked.within, truth)
            )
            one = sample_of(said.take(sample), None, cost, (), "fp32", asked.within)
            promise = Promise(asked.share, CONFIDENCE, len(rest))
            point = promised_point(one, promise, asked.criterion)
            told = {"share": asked.share, "criterion": asked.criterion, "within": asked.within}
            of["promises"].append(told | made)
            if question.name:
                continue
            (clock,) = realised_speedups(engine, timed, [point], 5)
            of["promises"][-1]["on_the_clock"] = round(clock, 3)
        points[question.name] = point
        exits.append(said.take(rest).exits(point.rule()))
    whole = together(points, "all")
    used, left = exits_used(whole.rules()), np.max(exits, axis=0)
    flops = cost.using(used).row_flops(tokens.costly[rest], left)
    found["point"] = whole.settings()
    found["flops_per_row"] = round(float(flops.mean()))
    if len(points) > 1:
        (clock,) = realised_speedups(engine, timed, [whole], 5)
        saved = cost.using(used).speedup(tokens.costly[rest], left)
        found["together"] = {"flops_speedup": round(saved, 3), "on_the_clock": round(clock, 3)}
    return found


def passes(data: Path, work: Path, sets: dict[str, Any]) -> dict[str, float]:
    """One pass that answers two questions, against a pass for each: seconds of the former by those
    of the latter, medians of interleaved runs, and FLOPs."""
    runs = []
    for name in _PASSES:
        model, tokenizer = load_model(work / name / "model"), load_tokenizer(work / name / "model")
        texts, _ = read_labelled([str(data / FOLDERS.get(name, name) / "test.parquet")],
                                 InputColumns("text"), [])  # fmt: skip
        tokens = Tokenizer(tokenizer)(texts.texts, None, model.config.max_length)
        point = msgspec.convert(sets[name]["point"] | {"name": name}, OperatingPoint)
        runs.append(partial(Engine(model, device()).answer, tokens, point.rules()))
    seconds = np.zeros((6, len(runs)))
    for taken in seconds:
        for k, run in enumerate(runs):
            started = time.perf_counter()
            run()
            taken[k] = time.perf_counter() - started
    one, *two = np.median(seconds[1:], axis=0).tolist()  # the first round warms up
    flops = [sets[name]["flops_per_row"] for name in _PASSES]
    return {"clock": round(sum(two) / one, 3), "flops": round(sum(flops[1:]) / flops[0], 3)}


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="JSON.")
@click.option("--sets", multiple=True, default=tuple(SETS), type=click.Choice(list(SETS)))
@click.option("--splits", default=200, show_default=True)
@click.option("--epochs", type=float, help="Of fine-tuning. Default: as train chooses.")
@click.option("--distil-epochs", type=float, help="Default: as train chooses.")
@click.option("--max-length", type=int, help="Tokens. Default: as train chooses.")
def main(
    data: Path, work: Path, output: Path, sets: tuple[str, ...], splits: int, **asked: Any
) -> None:
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
        options = {key: value for key, value in asked.items() if value is not None}
        result = run_set(name, data, folder, splits, options)
        result |= {"machine": machine(), "seconds": round(time.monotonic() - started)}
        found["sets"][name] = result
        output.write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(result, indent=1), flush=True)
    if {*_PASSES} <= found["sets"].keys():
        found["one_pass_for_two"] = passes(data, work, found["sets"])
        output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
