"""What stands beside the model: how fast one core reads and tokenizes, and how fast a replica's
host side is, from the bytes of a slice that comes to the bytes of one that goes.

Hypotheses: read and tokenize take one core 346,000 rows a second, with texts of AG News; the
replica answers 895,000 beside its model. An exit before the first layer, or windows, cost neither.

    python -m benchmarks.speed.feeding --model models/ag_news --data ag_news/train.parquet \\
        --output benchmarks/results/feeding.json

In the replica a stub stands for the layers: all rows leave at the first exit behind them, at once.
Its rows are all different. Readers are measured on a slice whose words are known, with nanotoken.
The exit before the first layer is in the checkpoint; `windows` divides the texts by 32 tokens.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.speed.job import write_corpus
from benchmarks.support.measure import interleaved, machine
from fastbert.checkpoint import fingerprint
from fastbert.configuration import load_config
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.engine import Engine
from pipelines.input.shards import find_shards
from pipelines.input.slices import Slice
from pipelines.labelling.classify import Classify
from pipelines.labelling.read import ReadTokenize
from pipelines.labelling.run import Run
from pipelines.labelling.work import Work, from_block, to_block
from pipelines.output.identity import Identity

#: Rows a second.
READING, ANSWERING = 346_000, 895_000
#: How texts are divided, and how long the windows are.
WINDOWS, LENGTH = {"most": None, "stride": 0, "pool": "mean"}, 32


def at_once(engine: Engine) -> None:
    """Let all rows leave an engine at the first exit behind a layer."""

    def pool(tokens: Any, rows: Any, decide: Any, exits: Any, passed: Any) -> Iterator[None]:
        logits = torch.zeros(len(rows), engine.questions.numbers)
        logits[:, 0] = 20
        later = decide(exits[0], rows, logits)
        yield
        later()
        passed(int(tokens.lengths.sum()) * engine.encoder.depth)

    engine._pool = pool  # type: ignore[method-assign, assignment]


def run_of(folder: Path, point: OperatingPoint, early: bool, windows: bool) -> Run:
    """A run at a point, whose readers may answer early, and may divide texts."""
    config = load_config(folder)
    return Run(
        model=str(folder),
        output="",
        run_id="feeding",
        identity=Identity(
            checkpoint=fingerprint(folder),
            criterion=point.criterion,
            thresholds=point.thresholds,
            temperatures=point.temperatures,
            exit_depths=point.exit_depths,
            text_column="text",
            pair_column=None,
            carry=None,
            max_length=LENGTH if windows else config.max_length,
            windows=WINDOWS if windows else None,
            truncated=True,
        ),
        operating_point=point.name,
        audit_rate=0.0,
        precision="fp32",
        answer_early=early,
    )


@click.command()
@click.option("--model", "folder", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--work", default="work", type=click.Path(path_type=Path))
@click.option("--rows", default=65_536)
@click.option("--rounds", default=5)
def main(folder: Path, data: Path, output: Path, work: Path, rows: int, rounds: int) -> None:
    """Measure, write JSON."""
    torch.set_num_threads(1)
    config = load_config(folder)
    deep = OperatingPoint.asked(config, 1.0, None)  # without the exit before the first layer
    own = OperatingPoint.asked(config, None, None)
    kinds = {
        "plain": run_of(folder, deep, early=False, windows=False),
        "bag": run_of(folder, own, early=True, windows=False),
        "windows": run_of(folder, deep, early=False, windows=True),
    }
    shard = find_shards([str(write_corpus(data, work / "feeding", rows))])[0]
    readers = {name: ReadTokenize(run) for name, run in kinds.items()}
    replicas = {name: Classify(run) for name, run in kinds.items()}
    for name, replica in replicas.items():
        at_once(replica.engine)
        replica.engine.windows = kinds[name].identity.windowing
    todo = Work(Slice(shard, rows, 0, rows))
    read = {name: to_block(reader(todo)) for name, reader in readers.items()}
    there = {name: from_block(block) for name, block in read.items()}
    seconds = interleaved(
        {
            f"read {name}": lambda reader=reader: to_block(reader(todo))
            for name, reader in readers.items()
        }
        | {
            f"answer {name}": lambda name=name, replica=replica: to_block(
                replica(from_block(read[name]))
            )
            for name, replica in replicas.items()
        },
        rounds,
    )
    speeds = {name: round(rows / float(np.median(each))) for name, each in seconds.items()}
    result = {
        "program": "python -m benchmarks.speed.feeding --model models/ag_news "
        "--data ag_news/train.parquet --output benchmarks/results/feeding.json",
        "machine": machine("pyarrow", "nanotoken"),
        "checkpoint": fingerprint(folder)[:12],
        "rows": rows,
        "rounds": rounds,
        "window": LENGTH,
        "rows_that_travel": {
            name: int((work.table["\0ids"].combine_chunks().value_lengths().to_numpy() > 0).sum())
            for name, work in there.items()
        },
        "rows_per_second": speeds,
        "targets": {"read": READING, "answer": ANSWERING},
    }
    print(json.dumps(result))
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
