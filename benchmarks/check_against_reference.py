"""Does a labelled output equal the slow reference, row for row?

Hypothesis: whatever batching, re-batching and Ray do, every label and exit layer of `jobs/label.py`
equals an implementation that takes one row at a time, unbatched, through Hugging Face's own
forward pass (tests/reference.py), and every score does to 1e-5. Rows whose uncertainty lies within
1e-5 of the threshold are counted apart: there the last bit decides.

    python benchmarks/check_against_reference.py --input IN --output OUT --model DIR --speed 0.5
"""

import json
import sys
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from reference import all_layers, answer

from fastbert.checkpoint import fetch_checkpoint, load_model, load_tokenizer
from fastbert.tokens import tokenize
from pipelines.shards import find_shards
from pipelines.storage import Storage


@click.command()
@click.option("--input", "source", required=True, help="What was labelled.")
@click.option("--output", required=True, help="Where the labels are.")
@click.option("--model", required=True, help="The checkpoint.")
@click.option("--speed", type=float, required=True, help="The speed it was labelled with.")
@click.option("--rows", default=0, help="Check only this many rows of each shard; 0: all.")
def main(source: str, output: str, model: str, speed: float, rows: int) -> None:
    """Compare and print one JSON line; exit code 1 where anything differs."""
    folder = Path(fetch_checkpoint(model))
    network, tokenizer = load_model(folder), load_tokenizer(folder)
    names = network.config.label_names
    thresholds = np.full(len(network.layers) - 1, speed)
    storage = Storage(output)
    files = sorted(storage.paths("table", ".parquet"))
    counts = {"shards": 0, "rows": 0, "on_the_threshold": 0, "different": 0}
    worst = 0.0
    for shard in find_shards([source]):
        with shard.open() as file:
            texts = pq.read_table(file, columns=["text"])["text"].to_pylist()
        labelled: list[dict] = []
        for path in (f for f in files if f.startswith(f"table/{shard.name}.")):
            with storage.fs.open(f"{storage.root}/{path}", "rb") as file:
                labelled += pq.read_table(file).to_pylist()
        if len(labelled) != len(texts):
            raise SystemExit(f"{shard.url}: {len(texts)} rows in, {len(labelled)} out")
        counts["shards"] += 1
        checked = len(texts) if rows == 0 else min(rows, len(texts))
        tokens = tokenize(tokenizer, texts[:checked], None, network.config.max_length)
        for i, row in enumerate(labelled[:checked]):
            counts["rows"] += 1
            probabilities = all_layers(network, tokens, i)
            expected = answer(probabilities, thresholds)
            seen = probabilities[: row["exit_layer"]]
            uncertainty = (seen * np.log(seen)).sum(-1) / np.log(1 / seen.shape[-1])
            if np.abs(uncertainty - speed).min() < 1e-5:
                counts["on_the_threshold"] += 1
                continue
            difference = abs(row["score"] - expected.score)
            worst = max(worst, difference)
            same = (
                row["label"] == names[expected.label] and row["exit_layer"] == expected.exit_layer
            )
            if not same or difference > 1e-5:
                counts["different"] += 1
                print(f"{shard.name} row {i}: {row} expected {expected}", file=sys.stderr)
    print(json.dumps(counts | {"largest_score_difference": worst}))
    raise SystemExit(counts["different"] > 0)


if __name__ == "__main__":
    main()
