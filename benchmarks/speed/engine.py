"""The engine against its peers: same weights, same rows, one process, runs in turns.

Hypothesis: at the speed that changes at most 1 % of the labels the engine labels at least ten
times as many rows per second as `transformers.pipeline`, and at least 95 % of what early exit
saves in FLOPs is saved on the clock.

    python -m benchmarks.speed.engine --model DIR --data FILE \\
        --output benchmarks/results/engine.json

FILE is Parquet with the column text. The speed is the highest, in steps of 0.01, at which at most
1 % of all rows get another label than at full depth.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch.nn import functional
from transformers import pipeline

from benchmarks.speed.peers import official, padded
from benchmarks.support.measure import interleaved, machine, ratio
from fastbert.calibration.evaluation import exit_outputs, outcome
from fastbert.exits.operating_point import OperatingPoint
from fastbert.exits.rules import Rule
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed.batching import Group, batch_rows, groups
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model

SPEEDS = (0.1, 0.3, 0.5, 0.8)


class FullDepth(torch.nn.Module):
    """What is exported to ONNX."""

    def __init__(self, model: FastBertForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids, attention_mask).logits


def export(
    model: FastBertForSequenceClassification, folder: Path
) -> dict[str, ort.InferenceSession]:
    """ONNX Runtime sessions, fp32 and dynamically quantised int8."""
    model.backbone.set_attn_implementation("eager")
    plain, small = folder / "fp32.onnx", folder / "int8.onnx"
    ids, names = torch.ones(2, 16, dtype=torch.long), ["input_ids", "attention_mask"]
    # The older of torch's exporters: what the newer one exports gives other logits here.
    torch.onnx.export(
        FullDepth(model).eval(),
        (ids, ids),
        plain,
        dynamo=False,
        opset_version=17,
        input_names=names,
        dynamic_axes={name: {0: "rows", 1: "width"} for name in names},
    )
    model.backbone.set_attn_implementation("sdpa")
    quantize_dynamic(plain, small, per_channel=True, weight_type=QuantType.QInt8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return {
        "ONNX Runtime fp32": ort.InferenceSession(plain, options),
        "ONNX Runtime int8": ort.InferenceSession(small, options),
    }


def run_onnx(session: ort.InferenceSession, tokens: Tokens, batch: int = 32) -> np.ndarray:
    """Full depth, rows sorted by length, batches padded to their longest: logits (n, N)."""
    order = np.argsort(-tokens.lengths, kind="stable")
    names = [given.name for given in session.get_inputs()]
    found = []
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = padded(tokens, rows, int(tokens.lengths[rows[0]]))
        found.append(session.run(None, dict(zip(names, inputs, strict=True)))[0])
    logits = np.concatenate(found)
    return logits[np.argsort(order)]


def batches_of(lengths: np.ndarray, budget: int) -> list[list[Group]]:
    """The engine's batches of rows, longest first."""
    found, start = [], 0
    while start < len(lengths):
        count = batch_rows(lengths[start:], budget)
        found.append(groups(lengths[start : start + count]))
        start += count
    return found


def products_alone(model: FastBertForSequenceClassification, tokens: Tokens, budget: int) -> Any:
    """A run of nothing but full depth's matrix products, each at the engine's own shapes.

    Linear maps by the faster of torch's two libraries, attention products on contiguous inputs.
    """
    backbone = model.config.backbone_config()
    hidden, inner, heads = (
        backbone.hidden_size,
        backbone.intermediate_size,
        backbone.num_attention_heads,
    )
    shapes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, inner), (inner, hidden)]
    lengths = -np.sort(-tokens.lengths)
    batches = batches_of(lengths, budget)
    inputs = {width: torch.randn(budget, width) for width in (hidden, inner)}
    weights = {shape: torch.randn(shape[1], shape[0]) for shape in shapes}
    reorder, multiply = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
    packed = {shape: reorder(weight) for shape, weight in weights.items()}

    def by_mkl(x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        return functional.linear(x, weights[shape])

    def by_onednn(x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        return multiply(x, packed[shape], None, "none", [], "")

    fastest = {}
    for shape in shapes:
        x = inputs[shape[0]]
        seconds = interleaved(
            {
                "mkl": lambda x=x, s=shape: by_mkl(x, s),
                "onednn": lambda x=x, s=shape: by_onednn(x, s),
            },
            7,
        )
        fastest[shape] = by_mkl if ratio(seconds, "mkl", "onednn") < 1 else by_onednn
    size = hidden // heads
    query = torch.randn(budget * heads, size)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(backbone.num_hidden_layers):
            for batch in batches:
                count = batch[-1].tokens.stop
                for shape in shapes:
                    fastest[shape](inputs[shape[0]][:count], shape)
                for group in batch:
                    rows = query[: group.rows * group.length * heads]
                    q = rows.view(group.rows * heads, group.length, size)
                    torch.bmm(torch.bmm(q, q.transpose(1, 2)), q)

    return run


@click.command()
@click.option("--model", "folder", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--more", type=click.Path(exists=True, path_type=Path), help="Further rows for the slice."
)
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--peer-rows", default=1500, help="Rows, spread over --data, that all peers label.")
@click.option("--slice-rows", default=16384, help="Rows of the slice for the FLOPs comparison.")
@click.option("--rounds", default=3)
@click.option("--slice-rounds", default=2)
def main(
    folder: Path,
    data: Path,
    more: Path | None,
    output: Path,
    peer_rows: int,
    slice_rows: int,
    rounds: int,
    slice_rounds: int,
) -> None:
    """Measure, print, write JSON."""
    print(machine("onnxruntime"))
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    texts = pq.read_table(data)["text"].to_pylist()
    fast_tokenizer = Tokenizer(tokenizer)
    tokens = fast_tokenizer(texts, None, model.config.max_length)
    cost = CostModel(model)
    engine, small, half = (Engine(model, dtype=DTYPES[name]) for name in ("fp32", "int8", "bf16"))
    outputs = exit_outputs(engine, tokens)

    def rule_of(speed: float) -> Rule:
        return OperatingPoint.of_speed(speed, model.config).rule()

    speeds = np.arange(0, 1.001, 0.01)
    speed = max(s for s in speeds if outcome(outputs, cost, rule_of(s)).agreement >= 0.99)
    rule = rule_of(speed)
    chosen = outcome(outputs, cost, rule)
    print(f"speed {speed:.2f}: {chosen}")

    rows = np.linspace(0, len(texts) - 1, peer_rows).astype(int)
    peer_texts, few = [texts[row] for row in rows], tokens.take(rows)
    classifier = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    names = {label: i for i, label in enumerate(model.config.label_names)}
    full = outputs.answers["label"][-1][rows]
    with tempfile.TemporaryDirectory() as temporary:
        sessions = export(model, Path(temporary))

        def by_pipeline() -> np.ndarray:
            found = classifier(peer_texts, batch_size=32, truncation=True, max_length=128)
            return np.array([names[answer["label"]] for answer in found])

        def with_tokenizing() -> np.ndarray:
            mine = fast_tokenizer(peer_texts, None, model.config.max_length)
            return engine.classify(mine, rule).answer["label"]

        contenders = {
            "transformers.pipeline": by_pipeline,
            "engine with tokenizing": with_tokenizing,
            "official algorithm": lambda: official(model, few, rule.thresholds),
            "engine": lambda: engine.classify(few, rule).answer["label"],
            "engine int8": lambda: small.classify(few, rule).answer["label"],
            "engine bf16": lambda: half.classify(few, rule).answer["label"],
            "engine full depth": lambda: engine.full_depth(few).argmax(-1),
            "products alone": products_alone(model, few, engine.batch_tokens),
        } | {
            name: lambda s=session: run_onnx(s, few).argmax(-1)
            for name, session in sessions.items()
        }
        agreement = {
            name: round(float((run() == full).mean()), 4)
            for name, run in contenders.items()
            if name != "products alone"
        }
        print(agreement, flush=True)
        seconds = interleaved(contenders, rounds, warm_up=False)
    fast = {"engine", "engine int8", "engine bf16"}
    ratios = {
        f"engine : {name}": ratio(seconds, name, "engine")
        for name in seconds
        if name not in {*fast, "transformers.pipeline", "engine with tokenizing", "products alone"}
    }
    ratios["engine : transformers.pipeline"] = ratio(
        seconds, "transformers.pipeline", "engine with tokenizing"
    )
    ratios["engine int8 : ONNX Runtime int8"] = ratio(seconds, "ONNX Runtime int8", "engine int8")
    ratios["engine int8 : engine"] = ratio(seconds, "engine", "engine int8")
    ratios["engine bf16 : engine"] = ratio(seconds, "engine", "engine bf16")
    ratios["full depth : products alone"] = ratio(seconds, "products alone", "engine full depth")
    print(ratios, flush=True)

    if more is not None:
        extra = pq.read_table(more)["text"].to_pylist()[: slice_rows - len(texts)]
        texts = (texts + extra)[:slice_rows]
        tokens = fast_tokenizer(texts, None, model.config.max_length)
        outputs = exit_outputs(engine, tokens)
    runs: dict[str, Any] = {"full depth": lambda: engine.full_depth(tokens)}
    for s in SPEEDS:
        runs[f"{s:g}"] = lambda s=s: engine.classify(tokens, rule_of(s))
    clock = interleaved(runs, slice_rounds, warm_up=False)
    realised = []
    for s in SPEEDS:
        ideal = outcome(outputs, cost, rule_of(s)).flops_speedup
        found = ratio(clock, "full depth", f"{s:g}")
        realised.append(
            {"speed": s, "flops_speedup": round(ideal, 3), "realised_speedup": found}
            | {"realised_by_ideal": round(found / ideal, 3)}
        )
        print(realised[-1], flush=True)
    result = {
        "program": "python -m benchmarks.speed.engine --model models/ag_news "
        "--data ag_news/test.parquet"
        + (" --more ag_news/train.parquet" if more else "")
        + " --output benchmarks/results/engine.json",
        "machine": machine("onnxruntime"),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "slice_rounds": slice_rounds,
        "speed": round(float(speed), 2),
        "agreement_of_all_rows": round(chosen.agreement, 4),
        "mean_layers": round(chosen.mean_layers, 3),
        "flops_speedup": round(chosen.flops_speedup, 3),
        "rows": len(rows),
        "agreement_with_full_depth": agreement,
        "ratios": ratios,
        "slice_rows": len(tokens),
        "realised": realised,
        "seconds": {
            name: [round(s, 3) for s in taken] for name, taken in {**seconds, **clock}.items()
        },
    }
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
