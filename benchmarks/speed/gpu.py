"""The engine on a CUDA device: correctness, throughput, and the share of what the device can do.

Hypothesis: BERT-base at 128 tokens reaches 0.55 of the measured bf16 matrix peak at full depth; at
thresholds where rows take 2 layers on average, 0.85 of what that saves in FLOPs is saved on the
clock, and at 512 tokens 5,000 rows leave per second.

    python -m benchmarks.speed.gpu --output benchmarks/results/gpu.json

Needs torch and transformers, not Ray. Weights are random, of the real sizes: the clock does not
care, and thresholds are chosen from the model's own uncertainties. `--device cpu --tiny` tries the
program itself where there is no GPU; its numbers mean nothing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.speed.peers import official, padded
from benchmarks.support.measure import interleaved, machine, ratio
from fastbert.calibration.evaluation import exit_outputs
from fastbert.exits.rules import Threshold
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.precision import device_name
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification

SIZES = {
    "BERT-base": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12),
    "MiniLM": dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12),
    "tiny": dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2),
}


def made(size: str) -> FastBertForSequenceClassification:
    """A classifier of this size with random weights, whose exits disagree."""
    sizes = SIZES[size]
    config = BertConfig(**sizes, intermediate_size=4 * sizes["hidden_size"], num_labels=4)
    torch.manual_seed(0)
    model = FastBertForSequenceClassification.from_classifier(BertForSequenceClassification(config))
    with torch.no_grad():
        for branch in model.branches:
            branch.classifier.weight.mul_(20)
    return model.eval()


def random_rows(lengths: np.ndarray, seed: int = 0) -> Tokens:
    """Rows of random ids."""
    ids = np.random.default_rng(seed).integers(1000, 30000, lengths.sum()).astype(np.int32)
    return Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def rule_for(engine: Engine, tokens: Tokens, mean_layers: float) -> Threshold:
    """Thresholds at which these rows take about `mean_layers`: the same share of those that are
    left leaves at each exit."""
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
        found = depths[outputs.exits(rule)].mean()
        best = min(best, (abs(found - mean_layers), rule), key=lambda pair: pair[0])
    return best[1]


def peak(device: str, dtype: torch.dtype, size: int) -> float:
    """FLOPs per second of one large matrix product, the best of 20."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = interleaved({"product": lambda: finished(lambda: a @ b, device)}, 20)["product"]
    return 2 * size**3 / min(seconds)


def finished(run: Callable[[], Any], device: str) -> Any:
    """Run, and wait for the device."""
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return result


@torch.inference_mode()
def plain_loop(model: FastBertForSequenceClassification, tokens: Tokens, width: int) -> np.ndarray:
    """What people write: batches of 256 in input order, padded to `width`, full depth."""
    found = []
    for start in range(0, len(tokens), 256):
        rows = np.arange(start, min(start + 256, len(tokens)))
        ids, mask = (torch.from_numpy(x).to(model.device) for x in padded(tokens, rows, width))
        found.append(model(ids, mask).logits.argmax(-1))
    return torch.cat(found).cpu().numpy()


def correctness(device: str, size: str) -> dict[str, Any]:
    """The device against float32 on the CPU: label, exit, score."""
    tokens = random_rows(np.random.default_rng(1).integers(5, 120, 300))
    reference = Engine(made(size))
    rule = rule_for(reference, tokens, 2)
    expected = reference.classify(tokens, rule)
    result = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found = Engine(made(size), device, dtype).classify(tokens, rule)
        same_label = found.answer["label"] == expected.answer["label"]
        same_exit = found.exit == expected.exit
        gaps = np.abs(found.answer["score"] - expected.answer["score"])
        result[name] = {
            "rows": len(tokens),
            "same_label": float(same_label.mean()),
            "same_exit_layer": float(same_exit.mean()),
            "largest_score_difference": float(gaps[same_label & same_exit].max()),
        }
    return result


def throughput(device: str, size: str, width: int, mixed: bool, rows: int, rounds: int) -> Any:
    """One model on rows of `width` tokens, or of 8 to `width`."""
    dtype = torch.bfloat16
    lengths = np.full(rows, width)
    if mixed:
        lengths = np.random.default_rng(2).integers(8, width + 1, rows)
    tokens = random_rows(lengths)
    engine = Engine(made(size), device, dtype)
    plain = made(size).to(device, dtype)
    rule = rule_for(engine, tokens, 2)
    runs = {
        "plain loop": lambda: plain_loop(plain, tokens, width),
        "official algorithm": lambda: official(plain, tokens, rule.thresholds, width),
        "full depth": lambda: engine.full_depth(tokens),
        "two layers": lambda: engine.classify(tokens, rule),
    }
    found = engine.classify(tokens, rule)
    seconds = interleaved({k: lambda r=r: finished(r, device) for k, r in runs.items()}, rounds)
    cost = CostModel(plain)
    full, speedup = cost.full_flops(lengths).sum(), cost.speedup(lengths, found.exit)
    depths = np.array([each.depth for each in engine.exits])
    best = peak(device, dtype, 8192 if device == "cuda" else 256)
    result = {
        "model": size,
        "tokens": f"8 to {width}" if mixed else str(width),
        "rows": rows,
        "mean_layers": float(depths[found.exit].mean()),
        "peak_flops_per_second": best,
        "flops_speedup": speedup,
        "rows_per_second": {k: round(rows / np.median(s), 1) for k, s in seconds.items()},
        "share_of_peak": {
            k: float(full / np.median(s) / best) for k, s in seconds.items() if "full" in k
        },
        "two layers : plain loop": ratio(seconds, "plain loop", "two layers"),
        "two layers : official algorithm": ratio(seconds, "official algorithm", "two layers"),
        "realised_by_ideal": ratio(seconds, "full depth", "two layers") / speedup,
    }
    return result


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--device", default="cuda", type=click.Choice(["cuda", "cpu"]))
@click.option("--tiny", is_flag=True, help="Tiny sizes, to try the program.")
@click.option("--rows", default=16384, help="Rows of 128 tokens; a quarter of that at 512.")
@click.option("--rounds", default=5)
def main(output: Path, device: str, tiny: bool, rows: int, rounds: int) -> None:
    """Measure, print, write JSON."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no CUDA device; see --help for --tiny")
    names = ["tiny"] if tiny else ["BERT-base", "MiniLM"]
    result: dict[str, Any] = {
        "program": "python -m benchmarks.speed.gpu --output benchmarks/results/gpu.json",
        "machine": machine(),
        "device": device_name(device),
        "correctness": {name: correctness(device, name) for name in names},
        "throughput": [],
    }
    print(json.dumps(result), flush=True)
    for name in names:
        for width, count in ((128, rows), (512, rows // 4)):
            for mixed in (False, True):
                result["throughput"].append(throughput(device, name, width, mixed, count, rounds))
                print(json.dumps(result["throughput"][-1]), flush=True)
                output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
