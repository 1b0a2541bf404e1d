"""Made what lies beside it, with the code at commit 831b513; README.md says how.

python make.py texts     # corpus/, texts.txt and, in raw/, what the checkpoint is trained on
python make.py train ...  # jobs/train.py with narrow branches
python make.py patience  # adds a point of the criterion patience, which jobs/calibrate.py has found
python make.py answers   # answers.parquet
"""

import json
import os
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CLASSES = {
    "bird": ["owl", "crow", "finch", "gull"],
    "fish": ["cod", "eel", "pike", "trout"],
    "tree": ["oak", "ash", "pine", "elm"],
    "tool": ["saw", "axe", "rake", "file"],
}
FILLERS = ["the", "a", "old", "red", "blue", "near", "under", "quiet", "runs", "stands"]
FILLERS += ["saw", "sees", "tall", "bridge", "river"]
TURN = "rather"  # what stands behind it counts
MODIFIED = 1_760_000_000  # part of a shard's version


def text(source: random.Random) -> tuple[str, str]:
    """Easy ones name their class; of the others, one in three, what follows the turn decides."""
    label, other = source.sample(list(CLASSES), 2)
    words = source.choices(FILLERS, k=source.randint(1, 5)) + source.choices(CLASSES[label], k=1)
    source.shuffle(words)
    if source.random() < 0.3:
        aside = source.choices(FILLERS, k=2) + source.choices(CLASSES[other], k=2)
        source.shuffle(aside)
        words = [*aside, TURN, *words] if source.random() < 0.5 else [TURN, *words, ",", *aside]
    return " ".join(words), label


def texts() -> None:
    from transformers import BertConfig, BertModel, BertTokenizer

    source = random.Random(1)
    Path("raw").mkdir()
    for name, rows in (("train", 3000), ("dev", 3000), ("more", 2000)):
        columns = zip(*(text(source) for _ in range(rows)), strict=True)
        pq.write_table(pa.table(dict(zip(("text", "label"), columns, strict=True))),
                       f"raw/{name}.parquet")  # fmt: skip
    Path("corpus/dt=1").mkdir(parents=True)
    for day, name in enumerate(("dt=1/a", "dt=1/b", "c")):
        rows: list[str | None] = [text(source)[0] for _ in range(40)]
        rows[3], rows[17], rows[25] = None, "   ", rows[24]
        path = f"corpus/{name}.parquet"
        pq.write_table(pa.table({"text": rows, "id": range(100 * day, 100 * day + 40)}), path)
        os.utime(path, (MODIFIED, MODIFIED))
    Path("texts.txt").write_text("\n".join(text(source)[0] for _ in range(60)) + "\n")
    words = [*FILLERS, TURN, ",", *(word for some in CLASSES.values() for word in some)]
    letters = sorted(set("".join(words)))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters]
    Path("raw/vocab.txt").write_text("\n".join(dict.fromkeys(tokens)))
    tokenizer = BertTokenizer("raw/vocab.txt")
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=36, num_hidden_layers=3,
                        num_attention_heads=3, intermediate_size=52,
                        max_position_embeddings=41)  # fmt: skip
    BertModel(config).save_pretrained("raw/backbone")
    tokenizer.save_pretrained("raw/backbone")


def train() -> None:
    from functools import partial

    from fastbert import FastBertForSequenceClassification
    from jobs.train import main

    FastBertForSequenceClassification.from_backbone = partial(
        FastBertForSequenceClassification.from_backbone, branch_size=14
    )
    main(sys.argv[2:])


def patience() -> None:
    # jobs/calibrate.py of that time loses a key, `use_cache`: it worked on a copy.
    path = Path("checkpoint/config.json")
    config = json.loads(path.read_text())
    copy = json.loads(Path("raw/copy/config.json").read_text())
    config["operating_points"]["patient"] = copy["operating_points"]["patient"]
    assert config["use_cache"] is False
    assert config["default_operating_point"] == "max-disagreement-0.01"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def answers() -> None:
    import numpy as np
    from fastbert.engine import Engine
    from fastbert.operating_point import OperatingPoint
    from fastbert.tokens import tokenize

    from fastbert.checkpoint import fingerprint, load_tokenizer
    from fastbert.weights import load_model

    folder = Path("checkpoint")
    model = load_model(folder)
    rows = Path("texts.txt").read_text().splitlines()
    tokens = tokenize(load_tokenizer(folder), rows, None, model.config.max_length)
    points = [OperatingPoint.of_speed(speed, model.config) for speed in (0.0, 0.3, 0.8)]
    points += [OperatingPoint.of_checkpoint(model.config, n) for n in ("max-disagreement-0.01",
                                                                      "patient")]  # fmt: skip
    engine, parts = Engine(model), []
    for point in points:
        found = engine.classify(tokens, np.asarray(point.thresholds), criterion=point.criterion)
        parts.append(
            pa.table(
                {
                    "point": [point.name] * len(rows),
                    "text": rows,
                    "label": [model.config.label_names[i] for i in found.label],
                    "score": found.score,
                    "exit_layer": found.exit_layer,
                    "uncertainty": found.uncertainty,
                }
            )  # fmt: skip
        )
    table = pa.concat_tables(parts)
    table = table.replace_schema_metadata({"fingerprint": fingerprint(folder)})
    pq.write_table(table, "answers.parquet", compression="zstd")


if __name__ == "__main__":
    {"texts": texts, "train": train, "patience": patience, "answers": answers}[sys.argv[1]]()
