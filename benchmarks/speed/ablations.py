"""What each idea in the engine brings: the engine with one of them taken out, against the whole.

Hypothesis: each idea that was kept makes the engine faster, on the same rows at the same speed.

    python -m benchmarks.speed.ablations --model DIR --data FILE --speed S \\
        --output benchmarks/results/ablations.json

`ratio` is the time without the idea by the time with all of them: above 1 the idea pays.
"""

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.nn import functional

from benchmarks.speed.peers import additive_mask
from benchmarks.support.measure import interleaved, machine, ratio
from fastbert.checkpoint import fingerprint
from fastbert.exits.heads import Branch
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.engine import Engine
from fastbert.inference.tokens import Tokens, sample, tokenize
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed import batching, linear, process
from fastbert.packed.batching import Batch
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model


def padded_layers(model: FastBertForSequenceClassification) -> Engine:
    """Hugging Face's own layers and heads over padded, masked batches."""
    engine = Engine(model)

    def mask_of(batch: Batch) -> torch.Tensor:
        return torch.from_numpy(np.arange(batch.longest) < batch.lengths[:, None])

    def pad(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        wide = hidden.new_zeros(*mask.shape, hidden.shape[-1])
        wide[mask] = hidden[: mask.sum()]
        return wide

    def layer(block: nn.Module) -> Any:
        def run(hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
            mask = mask_of(batch)
            bias = None if mask.all() else additive_mask(mask, hidden.dtype)
            after = hidden.clone()
            after[: mask.sum()] = block(pad(hidden, mask), bias)[mask]
            return after

        return run

    def branch(head: nn.Module) -> Any:
        def run(hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
            mask = mask_of(batch)
            return head(pad(hidden, mask), mask)

        return run

    engine.encoder.layers = [layer(block) for block in model.backbone.encoder.layer]
    engine.heads = {exit: branch(head) for exit, head in enumerate(model.heads)}
    return engine


def torchs_linear_maps(model: FastBertForSequenceClassification) -> Engine:
    """`torch.nn.functional.linear`, activations and sums after it."""
    with patch.object(linear, "_packed", lambda weight: None):
        return Engine(model)


def layers_of(engine: Engine, model: FastBertForSequenceClassification) -> Any:
    """Each layer as the engine has it, and as Hugging Face does."""
    return zip(engine.encoder.layers, model.backbone.encoder.layer, strict=True)


def three_projections(model: FastBertForSequenceClassification) -> Engine:
    """Queries, keys and values by a product each."""
    engine = Engine(model)
    for packed, layer in layers_of(engine, model):
        own = layer.attention.self
        parts = [linear.prepared([part]) for part in (own.query, own.key, own.value)]
        packed.mixed = lambda x, parts=parts: torch.cat([p(x) for p in parts], -1)
    return engine


def sums_fused(model: FastBertForSequenceClassification) -> Engine:
    """Residual connections added by oneDNN within the product."""
    engine = Engine(model)

    def fused(part: nn.Linear) -> Any:
        class Product:
            def __init__(self, x: torch.Tensor) -> None:
                self.x = x

            def add_(self, y: torch.Tensor) -> torch.Tensor:
                return multiply(self.x, y, packed, part.bias.detach(), "add")

        packed = torch.ops.mkldnn._reorder_linear_weight(part.weight.detach())
        multiply = torch.ops.mkldnn._linear_pointwise.binary
        return Product

    for packed, layer in layers_of(engine, model):
        packed.output = fused(layer.attention.output.dense)
        up = linear.prepared([layer.intermediate.dense], engine.encoder.activation)
        down = fused(layer.output.dense)
        packed.block = lambda x, up=up, down=down: down(up(x))
    return engine


def torchs_attention(model: FastBertForSequenceClassification) -> Engine:
    """All rows of one length at once, by torch's own."""
    engine = Engine(model)

    def attend(mixed: torch.Tensor, batch: Batch, heads: int) -> torch.Tensor:
        contexts = mixed.new_zeros(len(mixed), mixed.shape[1] // 3)
        for group in batch.groups:
            split = mixed[group.tokens].view(group.rows, group.length, 3, heads, -1)
            found = functional.scaled_dot_product_attention(*split.permute(2, 0, 3, 1, 4))
            contexts[group.tokens] = found.transpose(1, 2).flatten(2).flatten(0, 1)
        return contexts

    for packed in engine.encoder.layers:
        packed.attend = partial(attend, heads=packed.heads)
    return engine


@contextmanager
def memory_given_back() -> Iterator[None]:
    """What glibc does by itself once large blocks have been freed: blocks of over 32 MB are given
    back, and the heap's end beyond 64 MB."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(process.MMAP_THRESHOLD, 1 << 25)
    mallopt(process.TRIM_THRESHOLD, 1 << 26)
    yield
    process.prepare_process.__wrapped__()


def keys_and_values_of_all(model: FastBertForSequenceClassification) -> Engine:
    """The branch projects every token to a key and a value (the same two products; what is done
    with them costs as much either way)."""
    engine = Engine(model)
    for exit, packed in engine.heads.items():
        branch = model.heads[exit]
        if not isinstance(branch, Branch):
            continue
        size = branch.dense.in_features
        both = linear.prepared([nn.Linear(size, 2 * size)])

        def narrow(x: torch.Tensor, real: Any = packed.narrow, both: Any = both) -> torch.Tensor:
            narrowed = real(x)
            both(narrowed)
            return narrowed

        packed.narrow = narrow
    return engine


def embeddings_apart(model: FastBertForSequenceClassification) -> Engine:
    """Hugging Face's embedding module: three look-ups, two sums."""
    engine = Engine(model)

    def embed(ids: torch.Tensor, types: Any, batch: Batch) -> torch.Tensor:
        both = {
            "token_type_ids": torch.zeros_like(batch.places)[None],
            "position_ids": batch.places[None],
        }
        return model.backbone.embeddings(input_ids=ids[None], **both)[0]

    engine.encoder.embed = embed
    return engine


VARIANTS = {
    "packed rows: no padding, no masks": padded_layers,
    "oneDNN linear maps, activations fused": torchs_linear_maps,
    "attention in chunks that stay in the cache": torchs_attention,
    "one product for queries, keys and values": three_projections,
    "residual sums apart from the products": sums_fused,
    "branch reads tokens without keys and values": keys_and_values_of_all,
    "positions and types folded into one table": embeddings_apart,
    "pools of 1,048,576 tokens (instead of batch by batch)": lambda m: Engine(m, pool_tokens=4096),
    "batches of 4,096 tokens (instead of 1,024)": lambda m: Engine(m, batch_tokens=1024),
    "batches of 4,096 tokens (instead of 16,384)": lambda m: Engine(m, batch_tokens=16384),
}


@click.command()
@click.option("--model", "folder", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--speed", required=True, type=float)
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--rows", default=800)
@click.option("--rounds", default=3)
def main(folder: Path, data: Path, speed: float, output: Path, rows: int, rounds: int) -> None:
    """Measure, print, write JSON."""
    print(machine())
    texts = pq.read_table(data)["text"].to_pylist()
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    tokens = sample(tokenize(tokenizer, texts, None, model.config.max_length), rows)
    rule = OperatingPoint.of_speed(speed, model.config).rule()
    engines = {"all": Engine(model)} | {name: make(model) for name, make in VARIANTS.items()}
    expected = engines["all"].classify(tokens, rule).answer["label"]
    for name, engine in list(engines.items()):
        found = engine.classify(tokens, rule).answer["label"]
        same = float((found == expected).mean())
        print(f"{name}: {same:.4f} of the labels are equal", flush=True)
        assert same > 0.998, f"{name} computes something else"
    runs = {k: lambda e=e: e.classify(tokens, rule) for k, e in engines.items()}
    everything = np.arange(len(tokens))

    def without_search() -> None:
        with patch.object(Tokens, "distinct", lambda self: (everything, everything)):
            engines["all"].classify(tokens, rule)

    half = tokens.take(
        np.concatenate([everything[: len(tokens) * 4 // 5]] + [everything[: len(tokens) // 5]])
    )

    def duplicates_apart() -> None:
        with patch.object(Tokens, "distinct", lambda self: (np.arange(len(self)),) * 2):
            engines["all"].classify(half, rule)

    def any_size() -> None:
        with patch("fastbert.inference.engine.ROUND", 1), patch(f"{batching.__name__}.ROUND", 1):
            engines["all"].classify(tokens, rule)

    def without_its_memory() -> None:
        with memory_given_back():
            engines["all"].classify(tokens, rule)

    runs["memory kept from layer to layer"] = without_its_memory
    runs["sizes of batches repeat"] = any_size
    runs["equal rows once: the search, on rows without duplicates"] = without_search
    runs["20 % duplicates"] = lambda: engines["all"].classify(half, rule)
    runs["equal rows once: 20 % duplicates"] = duplicates_apart
    seconds = interleaved(runs, rounds, warm_up=False)
    ratios = {
        name: ratio(seconds, name, "all") for name in runs if name not in ("all", "20 % duplicates")
    }
    name = "equal rows once: 20 % duplicates"
    ratios[name] = ratio(seconds, name, "20 % duplicates")
    result = {
        "program": "python -m benchmarks.speed.ablations --model models/ag_news "
        f"--data ag_news/{data.name} "
        f"--speed {speed:g} --output benchmarks/results/ablations.json",
        "machine": machine(),
        "checkpoint": fingerprint(folder)[:12],
        "threads": torch.get_num_threads(),
        "rows": len(tokens),
        "rounds": rounds,
        "ratio": ratios,
        "seconds": {name: [round(s, 3) for s in taken] for name, taken in seconds.items()},
    }
    print(json.dumps(ratios, indent=1))
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
