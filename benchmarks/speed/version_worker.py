"""One checkout's engine, for versions.py, which asks for runs one by one.

Runs as a script with that checkout's packages; so it imports nothing of `benchmarks`, and knows
the names of the releases before 2.0 as well. Requests come as lines of JSON, so do the answers.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer

import fastbert
from fastbert.weights import load_model

try:
    from fastbert.exits.operating_point import OperatingPoint
    from fastbert.inference.engine import DTYPES, Engine
    from fastbert.inference.tokenizer import Tokenizer
except ImportError:
    from fastbert.engine import DTYPES, Engine
    from fastbert.operating_point import OperatingPoint

    from fastbert.tokenizer import Tokenizer


class Worker:
    """Engines of all precisions, and the tokens of all texts."""

    def __init__(self, folder: Path, data: str) -> None:
        self.folder, config = folder, load_model(folder).config
        texts = pq.read_table(data)["text"].to_pylist()
        tokenizer = Tokenizer(AutoTokenizer.from_pretrained(folder))
        self.tokens = tokenizer(texts, None, config.max_length)
        point = OperatingPoint.of_checkpoint(config, None)
        self.rule: Any = np.asarray(point.thresholds)
        if hasattr(point, "rule"):
            self.rule = point.rule()
        self.engines: dict[str, Engine] = {}

    def classify(self, precision: str) -> tuple[Any, float]:
        """Answers for all rows, and the seconds that they took."""
        if precision not in self.engines:
            self.engines[precision] = Engine(load_model(self.folder), dtype=DTYPES[precision])
        started = time.perf_counter()
        found = self.engines[precision].classify(self.tokens, self.rule)
        return found, time.perf_counter() - started

    def seconds(self, precision: str) -> float:
        """Of one run."""
        return self.classify(precision)[1]

    def answers(self, precision: str) -> dict[str, list[int]]:
        """Label, and exit from 0, of every row."""
        found = self.classify(precision)[0]
        if hasattr(found, "answer"):
            return {"label": found.answer["label"].tolist(), "exit": found.exit.tolist()}
        return {"label": found.label.tolist(), "exit": (found.exit_layer - 1).tolist()}


def main() -> None:
    """Answer until there are no more requests."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may get among the answers
    worker = Worker(Path(sys.argv[1]), sys.argv[2])
    hello = {"package": fastbert.__file__, "threads": torch.get_num_threads()}
    print(json.dumps(hello), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        found = getattr(worker, request["do"])(request["precision"])
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
