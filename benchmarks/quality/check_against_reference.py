"""Do labelled outputs equal the slow reference, row for row?

Hypothesis: whatever batching, re-batching, Ray and the file system do, every label and exit layer
of `jobs/label.py` in float32 equals an implementation that takes one row at a time, unbatched,
through Hugging Face's own forward pass (tests/support/reference.py), and every score does to 1e-5.
Rows with an uncertainty within 1e-5 of the threshold are counted apart: the last bit decides.

    python -m benchmarks.quality.check_against_reference --input IN --output OUT \\
        --model DIR --speed 0.5
"""

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
from support.reference import all_exits, answer

from fastbert.checkpoint import fetch_checkpoint
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.tokens import tokenize
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.input.shards import find_shards
from pipelines.output.storage import Storage


def labelled_rows(output: str, shard: str) -> list[dict[str, Any]]:
    """The rows that `output` has of a shard, in order."""
    storage = Storage(output)
    paths = sorted(p for p in storage.paths("table", "") if p.startswith(f"table/{shard}."))
    rows = []
    for path in paths:
        with storage.fs.open(f"{storage.root}/{path}", "rb") as file:
            rows += pq.read_table(file).to_pylist()
    return rows


def compare(source: str, outputs: list[str], model: str, speed: float) -> list[dict[str, Any]]:
    """One result per output: shards, rows, how many differ, the largest difference of scores."""
    folder = Path(fetch_checkpoint(model))
    network, tokenizer = load_model(folder), load_tokenizer(folder)
    names = network.config.label_names
    depths = [each.depth for each in network.exits]
    thresholds = np.array(OperatingPoint.of_speed(speed, network.config).thresholds)
    results = [
        {"output": output.partition("://")[0] if "://" in output else "local folder"}
        | {"shards": 0, "rows": 0, "on_the_threshold": 0, "different": 0}
        | {"largest_score_difference": 0.0}
        for output in outputs
    ]
    for shard in find_shards([source]):
        with shard.open() as file:
            texts = pq.read_table(file, columns=["text"])["text"].to_pylist()
        tokens = tokenize(tokenizer, texts, None, network.config.max_length)
        found = [labelled_rows(output, shard.name) for output in outputs]
        for result, rows in zip(results, found, strict=True):
            result["shards"] += 1
            result["different"] += abs(len(rows) - len(texts))
        for i in range(len(texts)):
            probabilities = all_exits(network, tokens, i)
            expected = answer(probabilities, thresholds)
            seen = probabilities[: expected.exit + 1]
            uncertainty = (seen * np.log(seen)).sum(-1) / np.log(1 / seen.shape[-1])
            for result, rows in zip(results, found, strict=True):
                row = rows[i]
                result["rows"] += 1
                if np.abs(uncertainty - speed).min() < 1e-5:
                    result["on_the_threshold"] += 1
                    continue
                difference = abs(row["score"] - expected.score)
                result["largest_score_difference"] = max(
                    difference, result["largest_score_difference"]
                )
                if (
                    row["label"] != names[expected.label]
                    or row["exit_layer"] != depths[expected.exit]
                    or difference > 1e-5
                ):
                    result["different"] += 1
                    print(f"{shard.name} row {i}: {row}; {expected}", file=sys.stderr)
    return results


@click.command()
@click.option("--input", "source", required=True, help="What was labelled.")
@click.option("--output", "outputs", multiple=True, required=True, help="Where the labels are.")
@click.option("--model", required=True, help="The checkpoint.")
@click.option("--speed", type=float, required=True, help="The speed it was labelled with.")
def main(source: str, outputs: tuple[str, ...], model: str, speed: float) -> None:
    """Compare and print one JSON line; exit code 1 where anything differs."""
    results = compare(source, list(outputs), model, speed)
    print(json.dumps(results))
    raise SystemExit(any(result["different"] for result in results))


if __name__ == "__main__":
    main()
