"""The authors' code and ours on the same weights: logits of every exit, exits at three speeds.

Claim: a converted checkpoint gives the authors' logits to 1e-5 and leaves where theirs leaves.

    git clone https://github.com/autoliuweijie/FastBERT
    python -m benchmarks.quality.official --code FastBERT --data douban_book_review/test.parquet \\
        --vocabulary FastBERT/models/google_zh_vocab.txt --output benchmarks/results/official.json

The authors publish no fine-tuned checkpoint, so the weights are random, with the scale of trained
ones, and the branches' outputs are spread until rows leave at every layer. Their code is run as it
is; `thop`, which counts FLOPs and is not needed, is replaced by an empty module.
"""

import json
import sys
import tempfile
import types
from argparse import Namespace
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.support.measure import machine
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.engine import Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.checkpoints.convert import convert
from pipelines.checkpoints.settings import ConvertSettings

SPEEDS = (0.1, 0.5, 0.8)
SIZES = {
    "BERT-base": dict(emb_size=768, hidden_size=768, feedforward_size=3072, heads_num=12,
                      layers_num=12),
    "small": dict(emb_size=256, hidden_size=256, feedforward_size=1024, heads_num=4, layers_num=4),
}  # fmt: skip
LENGTH, CLASSES = 128, 2


def their_model(code: Path, vocabulary: Path, sizes: dict[str, int], speed: float) -> Any:
    """The authors' FastBERT with random weights, and its tokenizer and vocabulary."""
    sys.modules["thop"] = types.ModuleType("thop")
    sys.modules["thop"].profile = None  # type: ignore[attr-defined]
    if str(code) not in sys.path:
        sys.path.insert(0, str(code))
    import run_fastbert as theirs
    from uer.model_builder import build_model
    from uer.utils.tokenizer import BertTokenizer
    from uer.utils.vocab import Vocab

    vocab = Vocab()
    vocab.load(str(vocabulary), is_quiet=True)
    args = Namespace(
        **sizes, dropout=0.1, embedding="bert", encoder="bert", target="bert", pooling="first",
        subword_type="none", vocab=vocab, vocab_path=str(vocabulary), labels_num=CLASSES,
        speed=speed,
    )  # fmt: skip
    torch.manual_seed(0)
    model = theirs.FastBertClassifier(args, build_model(args)).eval()
    for name, values in model.named_parameters():
        if "gamma" in name:
            torch.nn.init.normal_(values, 1.0, 0.1)
        elif name.startswith("classifiers"):
            torch.nn.init.normal_(values, 0.0, 0.15)
        elif "embedding" in name:
            torch.nn.init.normal_(values, 0.0, 0.05)
        else:
            torch.nn.init.normal_(values, 0.0, 0.04)
    return model, BertTokenizer(args), vocab


@torch.no_grad()
def their_layers(model: Any, ids: torch.Tensor, segments: torch.Tensor) -> np.ndarray:
    """Logits of every layer (L, N) of one row, by the authors' parts."""
    hidden = model.embedding(ids, segments)
    mask = (segments > 0).unsqueeze(1).repeat(1, ids.shape[1], 1).unsqueeze(1).to(hidden.dtype)
    mask = (1.0 - mask) * -10000.0
    found = []
    for layer, classifier in zip(model.encoder.transformer, model.classifiers, strict=True):
        hidden = layer(hidden, mask)
        found.append(classifier(hidden, mask)[0].numpy())
    return np.stack(found)


@torch.no_grad()
def their_exit(model: Any, ids: torch.Tensor, segments: torch.Tensor, speed: float) -> int:
    """The layer, from 1, at which the authors' fast mode leaves."""
    layers = 0
    real = model._difficult_samples_idxs

    def counting(*arguments: Any) -> Any:
        nonlocal layers
        layers += 1
        return real(*arguments)

    model.threshold, model._difficult_samples_idxs = speed, counting
    model(ids, None, segments, fast=True)
    del model._difficult_samples_idxs
    return layers


def compare(code: Path, vocabulary: Path, texts: list[str], sizes: dict[str, int]) -> dict:
    """Both on the same texts."""
    model, tokenizer, vocab = their_model(code, vocabulary, sizes, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), f"{folder}/fastbert.bin")
        convert(
            ConvertSettings(
                checkpoint=f"{folder}/fastbert.bin", vocabulary=str(vocabulary),
                output=f"{folder}/ours", max_length=LENGTH,
            )
        )  # fmt: skip
        ours, our_tokenizer = load_model(Path(folder, "ours")), load_tokenizer(Path(folder, "ours"))
    tokens = Tokenizer(our_tokenizer)(texts, None, LENGTH)
    engine = Engine(ours)
    logits = engine.exit_logits(tokens)  # (E, n, N), an exit after every layer
    exits = {
        speed: engine.classify(tokens, OperatingPoint.of_speed(speed, ours.config).rule()).exit
        for speed in SPEEDS
    }
    exact = deepcopy(model).double()
    exact_logits = Engine(ours, dtype=torch.float64).exit_logits(tokens)
    worst, exact_worst, other_tokens = 0.0, 0.0, 0
    different = dict.fromkeys(SPEEDS, 0)
    for row, text in enumerate(texts):
        ids = [101, *(vocab.get(token) for token in tokenizer.tokenize(text))][:LENGTH]
        mine = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
        other_tokens += int(mine.tolist() != ids)
        # As their script pads, but for the length: a mask hides what is behind the text.
        segments = torch.tensor([[1] * len(ids) + [0] * 3])
        padded = torch.tensor([ids + [0] * 3])
        gap = np.abs(their_layers(model, padded, segments) - logits[:, row]).max()
        worst = max(worst, float(gap))
        gap = np.abs(their_layers(exact, padded, segments) - exact_logits[:, row]).max()
        exact_worst = max(exact_worst, float(gap))
        for speed in SPEEDS:
            theirs = their_exit(model, padded, segments, speed)
            different[speed] += int(theirs != engine.exits[exits[speed][row]].depth)
    return {
        "layers": len(logits),
        "rows": len(texts),
        "rows_of_other_tokens": other_tokens,
        "largest_logit": float(np.abs(logits).max()),
        "largest_difference": worst,
        "largest_difference_in_float64": exact_worst,  # without rounding: of the conversion alone
        "exits": {
            f"{speed:g}": np.bincount(exits[speed], minlength=len(logits)).tolist()
            for speed in SPEEDS
        },
        "rows_of_other_exits": {f"{speed:g}": n for speed, n in different.items()},
    }


@click.command()
@click.option("--code", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--vocabulary", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--rows", default=200, show_default=True)
def main(code: Path, data: Path, vocabulary: Path, output: Path, rows: int) -> None:
    """See the top of this file."""
    texts = pq.read_table(data)["text"].to_pylist()[:rows]
    found = {
        "program": "python -m benchmarks.quality.official --code FastBERT --data "
        f"{data.parent.name}/{data.name} --vocabulary {vocabulary.name} "
        "--output benchmarks/results/official.json",
        "machine": machine(),
        "models": {name: compare(code, vocabulary, texts, sizes) for name, sizes in SIZES.items()},
    }
    output.write_text(json.dumps(found, indent=1) + "\n")
    print(output.read_text())


if __name__ == "__main__":
    main()
