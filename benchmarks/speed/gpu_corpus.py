"""A trained model on a CUDA device, for `gpu.py`: whether it answers as on a CPU, whether rows
depend on their company, and how fast a corpus is labelled and fed.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.support.measure import interleaved, ratio
from fastbert.calibration.choosing import heads_on_clock
from fastbert.calibration.evaluation import exit_outputs
from fastbert.calibration.points import promised_point, sample_of
from fastbert.configuration import load_config
from fastbert.exits.operating_point import Promise
from fastbert.exits.rules import Rule
from fastbert.inference.cost import CostModel
from fastbert.inference.decisions import Predictions
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import supports
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed import ragged
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model

#: Rows that calibrate, that a CPU answers as well, and that are answered one by one.
_CALIBRATING, _COMPARED, _ALONE = 8192, 4096, 256
#: The share of labels that may change.
_PROMISE = 0.01
#: Rows of a slice, as the replica gets them.
_SLICE = 131_072


#: A section's name, and what measures it.
Section = tuple[str, Callable[[], Any]]


def corpus(folder: Path, texts: Path, device: str, rounds: int) -> Iterator[Section]:
    """What is to be measured."""
    words = pq.read_table(texts, columns=["text"])["text"].to_pylist()
    yield "feeding", lambda: feeding(folder, words)
    model = load_model(folder)
    tokens = Tokenizer(load_tokenizer(folder))(words, None, model.config.max_length)
    order = np.random.default_rng(0).permutation(len(tokens))
    learns, rest = order[:_CALIBRATING], order[_CALIBRATING:]
    compared = rest[:_COMPARED]
    rule = calibrated(model, Engine(model), tokens.take(learns), "fp32")
    yield "answers", lambda: answers(model, device, tokens.take(compared), rule)
    yield "company", lambda: company(model, device, tokens.take(compared), rule)
    parts = tokens.take(learns), tokens.take(rest)
    yield "labelling", lambda: labelling(model, device, *parts, rounds)


def calibrated(
    model: FastBertForSequenceClassification,
    engine: Engine,
    tokens: Tokens,
    precision: str,
    heads: float | None = None,
) -> Rule:
    """Where at most so many labels change, by exits that pay if `heads` cost so much."""
    outputs = exit_outputs(engine, tokens)
    sample = sample_of(outputs, None, CostModel(model), (), precision, heads=heads)
    return promised_point(sample, Promise(_PROMISE, 0.95)).rule()


def same(found: Predictions, expected: Predictions) -> dict[str, float]:
    """Shares of equal rows, and how far scores differ."""
    label = found.answer["label"] == expected.answer["label"]
    gaps = np.abs(found.answer["score"] - expected.answer["score"])
    there = label & (found.exit == expected.exit)
    return {
        "same_label": round(float(label.mean()), 5),
        "same_exit": round(float((found.exit == expected.exit).mean()), 5),
        "largest_score_difference": float(gaps[there].max(initial=0)),
        "bitwise": round(float((found.answer == expected.answer).mean()), 5),
    }


def answers(
    model: FastBertForSequenceClassification, device: str, tokens: Tokens, rule: Rule
) -> dict[str, Any]:
    """The device against float32 on the CPU, at a point that float32 was calibrated to."""
    expected = Engine(model).classify(tokens, rule)
    names = [name for name in ("fp32", "bf16", "fp8") if supports(name, device)]
    found: dict[str, Any] = {"rows": len(tokens)}
    for name in names:
        found[name] = same(Engine(model, device, DTYPES[name]).classify(tokens, rule), expected)
    return found


def company(
    model: FastBertForSequenceClassification, device: str, tokens: Tokens, rule: Rule
) -> dict[str, Any]:
    """Rows alone, and in slices of some, against the same rows in one slice, in bf16."""
    engine = Engine(model, device, torch.bfloat16)
    expected = engine.classify(tokens, rule)
    few = np.arange(min(_ALONE, len(tokens)))
    alone = [engine.classify(tokens.take(few[k : k + 1]), rule) for k in few]
    slices = np.array_split(np.random.default_rng(1).permutation(len(tokens)), 7)
    parts = [engine.classify(tokens.take(rows), rule) for rows in slices]
    return {
        "alone": same(joined(alone), expected.take(few)),
        "in other slices": same(joined(parts), expected.take(np.concatenate(slices))),
        "attention is the same to the bit": attention_alone(engine, tokens.lengths[few]),
    }


def joined(parts: list[Predictions]) -> Predictions:
    """One behind the other."""
    return Predictions(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    )


def attention_alone(engine: Engine, lengths: np.ndarray) -> bool | None:
    """Whether a row's attention is the same alone and in company; None without the kernel."""
    if not engine.ragged:
        return None
    size = 3, int(lengths.sum()), 12, 64
    parts = torch.randn(size, device=engine.device, dtype=torch.bfloat16)
    ends = np.concatenate([[0], np.cumsum(lengths)])

    def attended(first: int, last: int) -> torch.Tensor:
        own = ends[first : last + 1]
        starts = torch.from_numpy(own - own[0]).int().to(engine.device)
        rows = starts, int(lengths[first:last].max())
        some = parts[:, own[0] : own[-1]]
        return ragged.attend(some[0], some[1], some[2], rows, rows)

    together = attended(0, len(lengths))
    alone = [attended(k, k + 1) for k in range(len(lengths))]
    return torch.equal(together, torch.cat(alone))


def labelling(
    model: FastBertForSequenceClassification,
    device: str,
    learning: Tokens,
    tokens: Tokens,
    rounds: int,
) -> dict[str, Any]:
    """Rows a second at the 1 % point that the device's own bf16 is calibrated to."""
    engine = Engine(model, device, torch.bfloat16)
    heads = heads_on_clock(engine, CostModel(model), learning)
    rule = calibrated(model, engine, learning, "bf16", heads)
    slice_ = tokens.take(np.arange(min(_SLICE, len(tokens))))
    runs = {
        "full depth": lambda: engine.full_depth(slice_),
        "at 1 %": lambda: engine.classify(slice_, rule),
    }
    seconds = interleaved(runs, rounds)
    found = engine.classify(slice_, rule)
    cost = CostModel(model).using(np.array(rule.used))
    return {
        "rows": len(slice_),
        "heads_on_the_clock": round(heads, 2),
        "exits_in_use": rule.used.tolist(),
        "mean_tokens": round(float(slice_.lengths.mean()), 1),
        "exits": np.bincount(found.exit, minlength=len(engine.exits)).tolist(),
        "flops_speedup": round(cost.speedup(slice_.lengths, found.exit), 3),
        "speedup": ratio(seconds, "full depth", "at 1 %"),
        "rows_per_second": {k: round(len(slice_) / np.median(s)) for k, s in seconds.items()},
        "host_share": host_share(engine, slice_, rule, float(np.median(seconds["at 1 %"]))),
    }


def host_share(engine: Engine, tokens: Tokens, rule: Rule, seconds: float) -> float | None:
    """The share of a run's `seconds` in which the card does nothing; None without one."""
    if engine.device.type != "cuda":
        return None
    # None, too, where the profiler may not look at the card.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        engine.classify(tokens, rule)
    busy = sum(each.self_device_time_total for each in profile.key_averages()) / 1e6
    return round(1 - busy / seconds, 4) if busy else None


_work: Any = None  # of a process that tokenizes: its texts, and what does it


def _prepare(folder: Path, length: int, texts: list[str], all_here: Any) -> None:
    global _work
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    tokenizer = Tokenizer(load_tokenizer(folder))
    tokenizer(texts, None, length)  # words become known
    _work = tokenizer, texts, length
    all_here.wait()


def _seconds(times: int) -> float:
    tokenizer, texts, length = _work
    started = time.perf_counter()
    for _ in range(times):
        tokenizer(texts, None, length)
    return time.perf_counter() - started


def feeding(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Rows a second that one core tokenizes, alone and with all others at work."""
    cores, times = os.cpu_count() or 1, 4
    part, length = texts[: max(1, len(texts) // 4)], load_config(folder).max_length
    spawn = multiprocessing.get_context("spawn")
    given = (folder, length, part, spawn.Barrier(cores))
    with spawn.Pool(cores, _prepare, given) as pool:
        one = pool.apply(_seconds, (times,))
        every = max(pool.map(_seconds, [times] * cores, chunksize=1))
    return {
        "cores": cores,
        "nanotoken": Tokenizer(load_tokenizer(folder)).fast,
        "rows_per_second_of_one": round(times * len(part) / one),
        "rows_per_second_of_all": round(cores * times * len(part) / every),
    }
