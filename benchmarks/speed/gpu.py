"""The engine on a CUDA device: its answers, its speed, its share of what the card can do.

Hypotheses, of one H100 or H200. On a trained model labels and exits are those of the CPU in float32
for 99.9 % of the rows in float32 and 99.5 % in bf16; the same row alone and in company has the same
label in 99.9 % and scores to 2e-2 in bf16, and its attention is the same to the bit. BERT-base at
full depth in bf16 reaches 0.60 of the card's measured peak at 128 tokens, 0.58 at 512, 0.57 at 8 to
128; where rows take 2 of 12 layers, 0.9 of what that saves in FLOPs is saved on the clock. fp8 is
1.25 times as fast as bf16, at 99.5 % equal labels. The cores beside the card feed it.

    python -m benchmarks.speed.gpu --model models/ag_news --texts ag_news/train.parquet \\
        --output benchmarks/results/gpu.json

Takes some 5 minutes on one card, and writes what it has as it goes on; what fails is named, and the
rest goes on. Needs what the library needs, neither Ray nor DuckDB. `--model` is a checkpoint with
an exit before the first layer, `--texts` what it is for, at least 20,000; without them only
BERT-base is measured, with random weights of the real size: the clock does not care, and thresholds
are chosen from the model's own uncertainties. `--device cpu --tiny` tries the program itself; its
numbers mean nothing.
"""

import copy
import json
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import is_flash_attn_2_available

from benchmarks.speed.gpu_corpus import corpus
from benchmarks.speed.peers import official, padded_loop
from benchmarks.support.measure import interleaved, machine, ratio
from fastbert.calibration.evaluation import exit_outputs
from fastbert.exits.rules import Threshold
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device_name, supports
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed import disentangled, fp8, linear, norm, ragged
from fastbert.packed.batching import longest_first

#: Layers that rows are to take on average, of all.
_SHARE_OF_DEPTH = 1 / 6
#: One in so many rows is enough for the official algorithm, which is slow.
_OFFICIAL = 8


def made(device: str, tiny: bool) -> FastBertForSequenceClassification:
    """BERT-base with random weights, whose exits disagree."""
    sizes = dict(hidden_size=32, num_hidden_layers=6, num_attention_heads=2, intermediate_size=64)
    config = BertConfig(**(sizes if tiny else {}), num_labels=4)
    torch.manual_seed(0)
    with torch.device(device):  # a CPU takes minutes
        classifier = BertForSequenceClassification(config)
        model = FastBertForSequenceClassification.from_classifier(classifier)
    with torch.no_grad():
        for branch in model.branches:
            branch.classifier.weight.mul_(20)
    return model.eval()


def random_rows(lengths: np.ndarray, seed: int = 0) -> Tokens:
    """Rows of random ids."""
    ids = np.random.default_rng(seed).integers(1000, 30000, lengths.sum()).astype(np.int32)
    return Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def rule_for(engine: Engine, tokens: Tokens) -> Threshold:
    """Thresholds at which these rows take about `_SHARE_OF_DEPTH` of the layers: the same share of
    those that are left leaves at each exit."""
    outputs = exit_outputs(engine, tokens)
    uncertainties = outputs.uncertainties
    last, depths = len(engine.exits) - 1, np.array([each.depth for each in engine.exits])
    best: tuple[float, Threshold] = (np.inf, Threshold.of(np.zeros(last)))
    for share in np.linspace(0.05, 0.95, 37):
        left = np.ones(len(tokens), bool)
        limits = np.zeros(last, np.float32)
        for k in range(last):
            if left.any():
                limits[k] = np.quantile(uncertainties[k, left], share)
                left &= uncertainties[k] >= limits[k]
        rule = Threshold.of(limits)
        mean = depths[outputs.exits(rule)].mean()
        wanted = _SHARE_OF_DEPTH * engine.encoder.depth
        best = min(best, (abs(mean - wanted), rule), key=lambda pair: pair[0])
    return best[1]


def peak(device: str, dtype: torch.dtype) -> float:
    """FLOPs per second of one large matrix product, the best of 20."""
    size = 8192 if device == "cuda" else 256
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = interleaved({"product": lambda: finished(lambda: a @ b, device)}, 20)["product"]
    return 2 * size**3 / min(seconds)


def finished(run: Callable[[], Any], device: str) -> Any:
    """Run, and wait for the device."""
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return result


def throughput(
    device: str, model: FastBertForSequenceClassification, lengths: np.ndarray, rounds: int
) -> dict[str, Any]:
    """One model on rows of these lengths."""
    tokens, width = random_rows(lengths), int(lengths.max())
    few = tokens.take(np.arange(-(-len(tokens) // _OFFICIAL)))
    engine = Engine(model, device, torch.bfloat16)
    plain = copy.deepcopy(model).to(torch.bfloat16)
    rule = rule_for(engine, tokens)
    runs: dict[str, Callable[[], Any]] = {
        "padded loop": lambda: padded_loop(plain, tokens, width),
        "padded loop, sorted": lambda: padded_loop(plain, tokens.take(longest_first(lengths))),
        "official algorithm": lambda: official(plain, few, rule.thresholds, width),
        "full depth": lambda: engine.full_depth(tokens),
        "early": lambda: engine.classify(tokens, rule),
    }
    if is_flash_attn_2_available():
        flash = copy.deepcopy(plain)
        flash.backbone.set_attn_implementation("flash_attention_2")
        runs["padded loop, flash attention"] = lambda: padded_loop(flash, tokens, width)
    if supports("fp8", device):
        eighth = Engine(model, device, DTYPES["fp8"])
        runs["full depth fp8"] = lambda: eighth.full_depth(tokens)
        runs["early fp8"] = lambda: eighth.classify(tokens, rule)
    seconds = interleaved({k: lambda r=r: finished(r, device) for k, r in runs.items()}, rounds)
    seconds["official algorithm"] = [
        each * len(tokens) / len(few) for each in seconds["official algorithm"]
    ]
    found = engine.classify(tokens, rule)
    cost, best = CostModel(model), peak(device, torch.bfloat16)
    full, speedup = cost.full_flops(lengths).sum(), cost.speedup(lengths, found.exit)
    depths = np.array([each.depth for each in engine.exits])
    return {
        "tokens": sorted({int(lengths.min()), width}),
        "rows": len(tokens),
        "varlen attention": engine.ragged,
        "layers": engine.encoder.depth,
        "mean_layers": float(depths[found.exit].mean()),
        "peak_flops_per_second": best,
        "flops_speedup": speedup,
        "rows_per_second": {k: round(len(tokens) / np.median(s), 1) for k, s in seconds.items()},
        "share_of_peak": {
            k: round(float(full / np.median(s) / best), 4)
            for k, s in seconds.items()
            if k.startswith("full")
        },
        "realised_by_ideal": round(ratio(seconds, "full depth", "early") / speedup, 4),
        "early : padded loop": ratio(seconds, "padded loop", "early"),
        "early : padded loop, sorted": ratio(seconds, "padded loop, sorted", "early"),
        "early : official algorithm": ratio(seconds, "official algorithm", "early"),
    } | (
        {
            "full depth, fp8 : bf16": ratio(seconds, "full depth", "full depth fp8"),
            "early, fp8 : bf16": ratio(seconds, "early", "early fp8"),
        }
        if "full depth fp8" in seconds
        else {}
    )


def kernels(device: str) -> dict[str, bool]:
    """Which of those for cards work here."""
    place = Engine(made(device, tiny=True), device, torch.bfloat16).device
    half = torch.bfloat16
    return {
        "attention over rows of any lengths": ragged.kernel(place, half) is not None,
        "in one split": isinstance(ragged.kernel(place, half), partial),
        "sums and their normalisation": norm.kernel(place, half) is not None,
        "products with GELU": linear._applies_gelu(place, half),
        "8-bit numbers": fp8._kernel(place) is not None,
        "flashdeberta": disentangled.kernel(place, half) is not None,
    }


def attempted(run: Callable[[], Any]) -> Any:
    """What it finds, or why it fails: the other sections go on."""
    try:
        return run()
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(exists=True, path_type=Path))
@click.option("--texts", type=click.Path(exists=True, path_type=Path))
@click.option("--device", default="cuda", type=click.Choice(["cuda", "cpu"]))
@click.option("--tiny", is_flag=True, help="Tiny sizes, to try the program.")
@click.option("--rows", default=16384, help="Rows of 128 tokens; a quarter of that at 512.")
@click.option("--rounds", default=3)
def main(
    output: Path,
    model: Path | None,
    texts: Path | None,
    device: str,
    tiny: bool,
    rows: int,
    rounds: int,
) -> None:
    """Measure, print, write JSON."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no CUDA device; see --help for --tiny")
    result: dict[str, Any] = {
        "program": "python -m benchmarks.speed.gpu --model models/ag_news "
        "--texts ag_news/train.parquet --output benchmarks/results/gpu.json",
        "machine": machine(),
        "device": device_name(device),
        "kernels": kernels(device),
        "throughput": [],
    }
    started = time.monotonic()

    def keep(**found: Any) -> None:
        result.update(found, seconds=round(time.monotonic() - started, 1))
        print(json.dumps(found), flush=True)
        output.write_text(json.dumps(result, indent=1) + "\n")

    random = made(device, tiny)
    mixed = np.random.default_rng(2).integers(8, 129, rows)
    for lengths in (np.full(rows, 128), mixed, np.full(rows // 4, 512)):
        run = partial(throughput, device, random, lengths, rounds)
        result["throughput"].append(attempted(run))
        keep(last=result["throughput"][-1])
    del result["last"]
    if model and texts:
        for name, section in corpus(model, texts, device, rounds):
            keep(**{name: attempted(section)})


if __name__ == "__main__":
    main()
