"""The exit before the first layer alone: how fast it answers, and learns, on one core.

Hypotheses: a million rows of 50 tokens a second, decisions included; and 30,000 rows are learnt in
30 seconds, once full depth's answers are there.

    python -m benchmarks.speed.bag --model models/ag_news --data ag_news/train.parquet \\
        --output benchmarks/results/bag.json

Rows are cut, or repeated, to 50 tokens each. The answers to learn from are the model's own first
exit's, as which they are does not matter to the clock.
"""

import copy
import json
import time
from pathlib import Path
from statistics import median

import click
import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.support.measure import interleaved, machine
from fastbert.checkpoint import fingerprint
from fastbert.exits.bag import Bag
from fastbert.exits.rules import Threshold
from fastbert.inference.first_exit import FirstExit
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from fastbert.tokenizer import load_tokenizer
from fastbert.training.bag import occurring, teach_bag
from fastbert.weights import load_model

TOKENS, SLICE = 50, 16_384


def of_one_length(tokens: Tokens, rows: int) -> Tokens:
    """So many rows of `TOKENS` tokens, from the stream of all tokens."""
    ids = np.resize(tokens.ids, rows * TOKENS)
    return Tokens(ids, np.arange(rows + 1, dtype=np.int64) * TOKENS)


@click.command()
@click.option("--model", "folder", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--rounds", default=15)
def main(folder: Path, data: Path, output: Path, rounds: int) -> None:
    """Measure, write JSON."""
    torch.set_num_threads(1)
    model = load_model(folder)
    texts = pq.read_table(data)["text"].to_pylist()
    tokens = Tokenizer(load_tokenizer(folder))(texts, None, model.config.max_length)
    rule = Threshold.of([0.5] + [0.0] * (len(model.exits) - 2))
    first, slice_ = FirstExit(folder, [rule]), of_one_length(tokens, SLICE)
    plain = copy.copy(first)
    plain.bag = copy.deepcopy(first.bag)
    plain.bag.pairs, plain.bag._found = plain.bag.pairs[:0], None
    runs = {"pairs": first, "no pairs": plain}
    seconds = interleaved({k: lambda e=e: e.classify(slice_) for k, e in runs.items()}, rounds)

    words = model.backbone.get_input_embeddings().weight.detach()
    known, pairs = occurring(tokens, len(words))
    config = model.config
    new = Bag(
        len(words), len(known), len(pairs), config.bag_size, config.bag_hidden, model.task.numbers
    )
    new.tokens.copy_(known)
    new.pairs.copy_(pairs)
    starts = torch.from_numpy(tokens.offsets[:-1]).int()
    with torch.inference_mode():
        wanted = first.bag.answer(torch.from_numpy(tokens.ids), starts).clone()
    started = time.perf_counter()
    teach_bag(new, model.questions, words, tokens, wanted.clone())
    result = {
        "program": "python -m benchmarks.speed.bag --model models/ag_news "
        "--data ag_news/train.parquet --output benchmarks/results/bag.json",
        "machine": machine(),
        "checkpoint": fingerprint(folder)[:12],
        "tokens": TOKENS,
        "rows": SLICE,
        "rounds": rounds,
        "pairs": len(first.bag.pairs),
        "rows_per_second": {k: round(SLICE / median(taken)) for k, taken in seconds.items()},
        "taught_rows": len(tokens),
        "taught_tokens": len(tokens.ids),
        "teaching_seconds": round(time.perf_counter() - started, 1),
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
