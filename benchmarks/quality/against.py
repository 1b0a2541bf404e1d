"""Promises against full depth in float32, of low precisions: are they kept, and what do they save?

Hypothesis: where the precision itself changes answers of full depth, the proof takes these rows for
broken, so that at most one point in twenty breaks its promise; and int8 keeps most of what it saves
in FLOPs.

    python -m benchmarks.quality.kinds --data DATA --work WORK --output KINDS.json
    python -m benchmarks.quality.against --data DATA --work WORK \\
        --output benchmarks/results/against.json

WORK and DATA are as of `kinds`, whose promises these are. Ranges for int8 are measured on rows that
have no other part. --sets may be repeated.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.quality.kinds import FOLDERS, SETS
from benchmarks.quality.promises import CONFIDENCE, cover
from benchmarks.support.measure import machine
from fastbert.calibration.evaluation import exit_outputs
from fastbert.calibration.ranges import measure_ranges, measuring
from fastbert.checkpoint import fingerprint
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples

PRECISIONS = ("fp32", "bf16", "int8")
#: One question each, and texts that are read as they lie in DATA.
ONES = [name for name, each in SETS.items() if len(each.columns) == 1 and not each.rows]


def run_set(name: str, data: Path, folder: Path, splits: int) -> dict[str, Any]:
    """Both promises, in every precision."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    place, asked = data / FOLDERS.get(name, name), SETS[name].promises[0]
    files = [str(place / f"{split}.parquet") for split in ("test", "dev")]
    files = [file for file in files if Path(file).exists()]
    texts = read_examples(files, InputColumns("text"))[0].texts
    tokens = Tokenizer(tokenizer)(texts, None, model.config.max_length)
    few = measuring(len(tokens), seed=0)
    ranges, rest = measure_ranges(model, tokens.take(np.flatnonzero(few))), np.flatnonzero(~few)
    tokens, cost = tokens.take(rest), CostModel(model)
    outputs = {
        precision: exit_outputs(Engine(model, "cpu", DTYPES[precision], ranges=ranges), tokens)
        for precision in PRECISIONS
    }
    exact = outputs["fp32"].answers[-1]
    found: dict[str, Any] = {
        "checkpoint": fingerprint(folder)[:12],
        "rows": len(tokens),
        "share": asked.share,
        "criterion": asked.criterion,
        "within": asked.within,
    }
    for precision, said in outputs.items():
        by = said.by(asked.criterion, asked.within)
        one = asked.share, (asked.criterion,), "0-", splits, asked.within
        found[precision] = {
            "changed_at_full_depth": round(float(by.differs(exact)[-1].mean()), 5),
            "own": cover(said, cost, *one),
            "against_fp32": cover(said, cost, *one, reference=exact),
        }
        print(name, precision, found[precision], flush=True)
    return found


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--sets", multiple=True, default=tuple(ONES), type=click.Choice(ONES))
@click.option("--splits", default=200, show_default=True)
def main(data: Path, work: Path, output: Path, sets: tuple[str, ...], splits: int) -> None:
    """See the top of this file."""
    found: dict[str, Any] = {
        "program": "python -m benchmarks.quality.against --data DATA --work WORK --output "
        f"benchmarks/results/against.json --splits {splits}",
        "machine": machine(),
        "confidence": CONFIDENCE,
        "splits": splits,
        "sets": {},
    }
    for name in sets:
        found["sets"][name] = run_set(name, data, work / name / "model", splits)
        output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
