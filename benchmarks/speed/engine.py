"""The engine against its peers: same weights, same rows, one process, runs in turns.

Hypothesis: at the point that is proven to change at most 1 % of the labels the engine labels at
least 20 times as many rows per second as `transformers.pipeline` (30 in bf16, where the processor
multiplies it), and, in int8, six times as many as OpenVINO in int8; at full depth it is as fast as
OpenVINO in fp32 and bf16, and 0.9 times as fast in int8; and at least 90 % of what early exit saves
in FLOPs is saved on the clock.

    pip install -e ".[peers]"
    python -m benchmarks.speed.engine --model DIR --data FILE \\
        --output benchmarks/results/engine.json

FILE is Parquet with the column text. Half of its rows prove the points, except 300, on which ranges
for int8 are measured; the clock sees the others.
The official algorithm, which has the paper's exits only, is compared at the highest speed, in steps
of 0.01, at which at most 1 % of these get another label than at full depth, the engine at the
proven point.

All contenders run in one process. oneDNN may remember as many products as all of them need, as it
would in a process for each.
"""

import os

os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "16384"  # before the imports

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
import torch
from torch.nn import functional
from transformers import pipeline

from benchmarks.speed.peers import export, in_batches, official, onnx_runtime, openvino
from benchmarks.support.measure import interleaved, machine, ratio
from fastbert.calibration.evaluation import ExitOutputs, exit_outputs, outcome
from fastbert.calibration.points import promised_point, sample_of
from fastbert.calibration.ranges import measure_ranges
from fastbert.checkpoint import fingerprint
from fastbert.exits.operating_point import OperatingPoint, Promise
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed.batching import cut
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model

#: Promised shares of labels that change; peers are compared at the second.
SHARES = (0.005, 0.01, 0.02)
SHARE = 0.01
PRECISIONS = ("fp32", "bf16", "int8")


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
    batches = [batch.groups for batch in cut(lengths, budget)]
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


def proven(outputs: ExitOutputs, cost: CostModel, precision: str, share: float) -> OperatingPoint:
    """The point that these rows prove."""
    sample = sample_of(outputs, None, cost, (), precision)
    return promised_point(sample, Promise(share, 0.95, len(sample)))


def paper_speed(outputs: ExitOutputs, cost: CostModel, model: Any) -> float:
    """The highest at which at most `SHARE` of the rows change."""
    speeds = np.arange(0, 1.001, 0.01)
    rules = {s: OperatingPoint.of_speed(float(s), model.config).rule() for s in speeds}
    return float(max(s for s in speeds if outcome(outputs, cost, rules[s]).agreement >= 1 - SHARE))


@click.command()
@click.option("--model", "folder", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--peer-rows", default=1500, help="Rows that all peers label.")
@click.option("--rounds", default=5)
@click.option("--clock-rounds", default=5, help="Of full depth and the proven points.")
def main(
    folder: Path, data: Path, output: Path, peer_rows: int, rounds: int, clock_rounds: int
) -> None:
    """Measure, print, write JSON."""
    print(machine("onnxruntime", "openvino", "nncf"))
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    texts = pq.read_table(data)["text"].to_pylist()
    tokenize = Tokenizer(tokenizer)
    tokens = tokenize(texts, None, model.config.max_length)
    cost = CostModel(model)
    order = np.random.default_rng(0).permutation(len(tokens))
    few, known, rest = np.split(order, [300, len(order) // 2])
    ranges = measure_ranges(model, tokens.take(few))
    engines = {name: Engine(model, dtype=DTYPES[name], ranges=ranges) for name in PRECISIONS}
    outputs = {name: exit_outputs(engine, tokens) for name, engine in engines.items()}
    points = {
        (name, share): proven(outputs[name].take(known), cost, name, share)
        for name in PRECISIONS
        for share in SHARES
    }
    rules = {key: point.rule() for key, point in points.items()}
    fares = {key: outcome(outputs[key[0]].take(rest), cost, rule) for key, rule in rules.items()}
    speed = paper_speed(outputs["fp32"].take(rest), cost, model)
    behind = OperatingPoint.of_speed(speed, model.config).rule()
    for key, fare in fares.items():
        print(*key, fare)

    rows = rest[:peer_rows]
    peer_texts, mine = [texts[row] for row in rows], tokens.take(rows)
    names = {label: i for i, label in enumerate(model.config.label_names)}
    full = outputs["fp32"].answers["label"][-1][rows]

    def by_pipeline(dtype: torch.dtype) -> Any:
        classifier = pipeline(
            "text-classification", model=load_model(folder).to(dtype), tokenizer=tokenizer,
            device="cpu",
        )  # fmt: skip
        length = model.config.max_length

        def run() -> np.ndarray:
            found = classifier(peer_texts, batch_size=32, truncation=True, max_length=length)
            return np.array([names[answer["label"]] for answer in found])

        return run

    def by_engine(name: str, tokenizing: bool) -> Any:
        def run() -> np.ndarray:
            length = model.config.max_length
            given = tokenize(peer_texts, None, length) if tokenizing else mine
            return engines[name].classify(given, rules[name, SHARE]).answer["label"]

        return run

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "model.onnx"
        export(model, place)
        sessions = onnx_runtime(place) | openvino(place, tokens.take(few))
        contenders = {
            "transformers.pipeline": by_pipeline(torch.float32),
            "transformers.pipeline bf16": by_pipeline(torch.bfloat16),
            "engine at the paper's exits": lambda: (
                engines["fp32"].classify(mine, behind).answer["label"]
            ),
            "official algorithm": lambda: official(model, mine, speed),
            "products alone": products_alone(model, mine, engines["fp32"].batch_tokens),
        } | {
            name: lambda forward=forward: in_batches(forward, mine).argmax(-1)
            for name, forward in sessions.items()
        }
        for name in PRECISIONS:
            contenders |= {
                f"engine {name}": by_engine(name, False),
                f"engine {name} with tokenizing": by_engine(name, True),
                f"full depth {name}": lambda name=name: engines[name].full_depth(mine).argmax(-1),
            }
        agreement = {
            name: round(float((run() == full).mean()), 4)
            for name, run in contenders.items()
            if name != "products alone"
        }
        print(agreement, flush=True)
        seconds = interleaved(contenders, rounds, warm_up=False)
    ratios = {}
    for name in PRECISIONS:
        fast = f"engine {name}"
        for peer in ("transformers.pipeline", "transformers.pipeline bf16"):
            ratios[f"{fast} : {peer}"] = ratio(seconds, peer, f"{fast} with tokenizing")
        for peer in (*sessions, "official algorithm", "engine at the paper's exits", "engine fp32"):
            if peer != fast:
                ratios[f"{fast} : {peer}"] = ratio(seconds, peer, fast)
        full = f"full depth {name}"
        ratios[f"{fast} : {full}"] = ratio(seconds, full, fast)
        for peer in (f"OpenVINO {name}", "products alone", "full depth fp32"):
            if peer != full:
                ratios[f"{full} : {peer}"] = ratio(seconds, peer, full)
    print(ratios, flush=True)

    late, engine = tokens.take(rest), engines["fp32"]
    runs: dict[str, Any] = {"full depth": lambda: engine.full_depth(late)}
    for share in SHARES:
        runs[f"{share:g}"] = lambda s=share: engine.classify(late, rules["fp32", s])
    clock = interleaved(runs, clock_rounds)
    realised = []
    for share in SHARES:
        fare, found = fares["fp32", share], ratio(clock, "full depth", f"{share:g}")
        realised.append(
            {"promised": share, "changed": round(1 - fare.agreement, 4)}
            | {"flops_speedup": round(fare.flops_speedup, 3), "realised_speedup": found}
            | {"realised_by_ideal": round(found / fare.flops_speedup, 3)}
        )
        print(realised[-1], flush=True)
    chosen = fares["fp32", SHARE]
    result = {
        "program": "python -m benchmarks.speed.engine --model models/ag_news "
        "--data ag_news/test.parquet --output benchmarks/results/engine.json",
        "machine": machine("onnxruntime", "openvino", "nncf"),
        "checkpoint": fingerprint(folder)[:12],
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "clock_rounds": clock_rounds,
        "rows": len(rows),
        "rows_that_prove": len(known),
        "rows_of_the_clock": len(rest),
        "mean_tokens": round(float(late.lengths.mean()), 1),
        "promised": SHARE,
        "changed": round(1 - chosen.agreement, 4),
        "exits": chosen.exits,
        "mean_layers": round(chosen.mean_layers, 3),
        "flops_speedup": {name: round(fares[name, SHARE].flops_speedup, 3) for name in PRECISIONS},
        "speed_of_the_official_algorithm": round(speed, 2),
        "agreement_with_full_depth": agreement,
        "ratios": ratios,
        "realised": realised,
        "seconds": {
            name: [round(s, 3) for s in taken] for name, taken in {**seconds, **clock}.items()
        },
    }
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
