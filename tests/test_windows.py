"""Long texts as several windows: cut as Hugging Face cuts them, and decided together."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jobs import invoke, refused
from support.labelling import table_of
from support.models import (
    LAYERS,
    POSITIONS,
    random_tokens,
    tiny_classifier,
    tiny_fastbert,
    tiny_tokenizer,
    with_bag,
)
from support.reference import all_logits
from support.shards import random_texts
from support.stages import InProcess

import fastbert
from fastbert.exits.rules import Threshold
from fastbert.exits.windows import Windows
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.first_exit import FirstExit
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from fastbert.training.examples import Examples
from fastbert.weights import save_checkpoint

LENGTH = 12
PROPERTY = settings(max_examples=15, deadline=None, derandomize=True)
TEXTS = [*random_texts(30, seed=3, longest=60), "", "red", "the " * 10, "the " * 11, "[SEP] " * 20]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("most", [None, 1, 2])
@pytest.mark.parametrize("stride", [0, 1, 5])
def test_windows_are_those_of_hugging_face(tmp_path, stride, most, fast):
    tokenizer = tiny_tokenizer(tmp_path)
    tokenize = Tokenizer(tokenizer, Windows(most, stride))
    if not fast:
        tokenize._wordpiece = None
    found = tokenize(TEXTS, None, LENGTH)
    windows, texts = found.apart()
    expected = tokenizer(TEXTS, max_length=LENGTH, truncation=True, stride=stride,
                         return_overflowing_tokens=True)  # fmt: skip
    of = np.array(expected["overflow_to_sample_mapping"])
    rows = [ids for k, ids in enumerate(expected["input_ids"])
            if most is None or (of[:k] == of[k]).sum() < most]  # fmt: skip
    mine = np.split(windows.ids, windows.offsets[1:-1])
    assert [ids.tolist() for ids in mine] == rows
    all_of = np.bincount(of, minlength=len(TEXTS))
    assert np.bincount(texts).tolist() == np.minimum(all_of, most or 999).tolist()
    assert found.truncated is not None
    assert found.truncated.tolist() == (all_of > (most or 999)).tolist()
    assert found.lengths.tolist() == [
        int(windows.lengths[texts == text].sum()) for text in range(len(TEXTS))
    ]


def test_windows_are_as_fast_to_cut_as_texts(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    assert Tokenizer(tokenizer, Windows()).fast == Tokenizer(tokenizer).fast


def test_some_rows_keep_their_windows(tmp_path):
    found = Tokenizer(tiny_tokenizer(tmp_path), Windows())(TEXTS, None, LENGTH)
    chosen = np.array([30, 4, 33, 4, 0])
    some = found.take(chosen)
    for place, row in enumerate(chosen):
        one = found.take(np.array([row]))
        (mine, _), (theirs, _) = some.take(np.array([place])).apart(), one.apart()
        assert mine.ids.tolist() == theirs.ids.tolist()
        assert mine.offsets.tolist() == theirs.offsets.tolist()
    assert some.costly.sum() == some.lengths.sum()
    assert (some.costly > 0).sum(1).tolist() == some.counts.tolist()
    nothing = Tokenizer(tiny_tokenizer(tmp_path), Windows())([], None, LENGTH)
    assert len(nothing) == 0
    assert nothing.costly.shape[0] == 0


# The engine.


def windowed(pool: str, bag: bool):
    model = tiny_fastbert()
    model.config.windows = {"pool": pool}
    return (with_bag(model) if bag else model).double()


def texts_of(counts: list[int], seed: int) -> Tokens:
    lengths = np.random.default_rng(seed).integers(2, 20, sum(counts))
    windows = random_tokens(lengths, seed, special=True)
    return Tokens.of_windows(windows.ids, windows.offsets, np.array(counts), None)


def check_texts_are_decided_by_what_their_windows_say(engine, model, tokens, share, pool) -> None:
    windows, texts = tokens.apart()
    logits = np.stack([all_logits(model, windows, k).numpy() for k in range(len(windows))])
    pooled = []
    for text in range(len(tokens)):
        own = logits[texts == text]  # (windows, E, N)
        pooled.append(own.mean(0) if pool == "mean" else own.max(0))
    p = torch.from_numpy(np.stack(pooled)).softmax(-1).numpy()  # (n, E, N)
    unsure = -(p * np.log(p)).sum(-1) / np.log(p.shape[-1])
    edges = np.unique(np.concatenate([[0.0], unsure[:, :-1].ravel(), [1.0]]))
    middles = ((edges[1:] + edges[:-1]) / 2)[np.diff(edges) > 1e-6]
    threshold = middles[np.abs(middles - np.quantile(edges, share)).argmin()]
    rule = Threshold.of(np.full(len(engine.exits) - 1, threshold))
    found = engine.classify(tokens, rule, np.ones(len(tokens), bool))
    for text in range(len(tokens)):
        below = np.append(unsure[text, :-1] < threshold, True)
        exit = int(below.argmax())
        assert found.exit[text] == exit
        assert found.answer["label"][text] == p[text, exit].argmax()
        assert found.uncertainty[text] == pytest.approx(unsure[text, exit], abs=1e-5)
        assert found.deep["label"][text] == p[text, -1].argmax()
        alone = engine.classify(tokens.take(np.array([text])), rule)
        assert alone.exit[0] == exit
    cost = CostModel(model).using(rule.used)
    flops = cost.row_flops(tokens.costly, found.exit)
    each = cost.row_flops(windows.lengths, found.exit[texts])
    assert flops.tolist() == [int(each[texts == text].sum()) for text in range(len(tokens))]


@pytest.mark.parametrize("pool", ["mean", "max"])
@PROPERTY
@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=9),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    bag=st.booleans(),
)
def test_texts_are_decided_by_what_their_windows_say(pool, counts, seed, share, bag):
    model = windowed(pool, bag)
    engine = Engine(model, dtype=torch.float64, batch_tokens=50, pool_tokens=90)
    tokens = texts_of(counts, seed)
    check_texts_are_decided_by_what_their_windows_say(engine, model, tokens, share, pool)


class FirstWindowOnly(Engine):
    """What the other windows say is not heard."""

    def _run(self, tokens, decide, *options):
        if tokens.counts is not None:
            first = tokens.apart()[0].take(np.cumsum(tokens.counts) - tokens.counts)
            tokens = Tokens.of_windows(first.ids, first.offsets, np.ones(len(tokens), int), None)
        super()._run(tokens, decide, *options)


def test_control():
    model = windowed("mean", False)
    engine = FirstWindowOnly(model, dtype=torch.float64)
    with pytest.raises(AssertionError):
        check_texts_are_decided_by_what_their_windows_say(
            engine, model, texts_of([3, 2, 4, 1, 3], 1), 0.5, "mean"
        )


def test_the_first_exit_alone_answers_as_the_engine(tmp_path):
    model = windowed("mean", True).float()
    save_checkpoint(model, tiny_tokenizer(tmp_path), str(tmp_path))
    tokens = texts_of([3, 1, 2, 5, 1, 1, 4, 2], 3)
    engine = Engine(model)
    unsure = engine.task.uncertainty(torch.from_numpy(engine.exit_logits(tokens, [0])[0]))
    rule = Threshold.of([float(unsure.median()) + 1e-4, 0.0, 0.0])
    (found,) = FirstExit(tmp_path, [rule]).classify(tokens)
    expected = engine.classify(tokens, rule)
    there = found.exit >= 0
    assert 2 <= there.sum() <= 6
    assert there.tolist() == (expected.exit == 0).tolist()
    assert found.answer["label"][there].tolist() == expected.answer["label"][there].tolist()


# Learning.


def test_each_text_is_one_of_its_windows_or_all(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    texts = ["red " * 25, "the", "blue " * 12]
    rows = Examples(texts, labels=[0, 1, 2]).tokenize(tokenizer, LENGTH, Windows())
    assert [rows[k]["labels"] for k in range(len(rows))] == [0, 0, 0, 1, 2, 2]
    drawn = Examples(texts, labels=[0, 1, 2]).tokenize(tokenizer, LENGTH, Windows(), drawn=True)
    torch.manual_seed(0)
    seen = {tuple(drawn[0]["input_ids"]) for _ in range(40)}
    whole = [tuple(rows[k]["input_ids"]) for k in range(3)]
    assert len(drawn) == 3
    assert seen == {*whole}
    assert {len(drawn[1]["input_ids"])} == {3}


# Through the commands.


def corpus(folder: Path, rows: int, seed: int) -> Path:
    """What a text is about stands in one place of it, often behind what is read at once."""
    generator = np.random.default_rng(seed)
    texts = [text.replace("red", "old") for text in random_texts(rows, seed=seed, longest=40)]
    labels = generator.integers(0, 2, rows)
    marked = []
    for text, label in zip(texts, labels, strict=True):
        words = text.split()
        words[generator.integers(len(words))] = "red" if label else "blue"
        marked.append(" ".join(word for word in words if word != ("blue" if label else "red")))
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": marked, "label": [["no", "yes"][k] for k in labels]})
    pq.write_table(table, folder / "a.parquet")
    return folder


def test_from_training_to_a_report(tmp_path, monkeypatch):
    tiny_classifier().base_model.save_pretrained(tmp_path / "backbone")
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path / "backbone")
    corpus(tmp_path / "train", 400, 1)
    corpus(tmp_path / "in", 90, 2)
    learn = ["train", "--train", tmp_path / "train", "--backbone", tmp_path / "backbone",
             "--output", tmp_path / "model", "--epochs", 4, "--learning-rate", 3e-3,
             "--distil-epochs", 2, "--max-length", LENGTH]  # fmt: skip
    refused(invoke(*learn, "--stride", 3), "go with --windows")
    refused(invoke(*learn, "--windows", "some"), "--windows is 'some'")
    refused(invoke(*learn, "--windows", "all", "--stride", 9), "stride of 9", "half")
    refused(invoke(*learn, "--windows", 0), "at most 0 windows")
    refused(invoke(*learn, "--max-length", 4, "--windows", "all", "--stride", 2), "expected less")
    refused(invoke(*learn, "--windows", 2, "--pair-column", "text"), "single texts")
    first = [*learn, "--windows", "all", "--pool", "first", "--epochs", 0.1]
    assert invoke(*first, "--distil-epochs", 0.1).exit_code in (0, 3)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["windows"] == {"most": 1, "stride": 0, "pool": "mean"}
    result = invoke(*learn, "--windows", 3, "--stride", 2)
    assert result.exit_code in (0, 3), result.output
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["windows"] == {"most": 3, "stride": 2, "pool": "mean"}

    monkeypatch.setattr("pipelines.running.executor.Chosen", InProcess)
    asked = ["label", "--input", tmp_path / "in", "--output", tmp_path / "out", "--model",
             tmp_path / "model", "--speed", 0.4, "--exits", "0-", "--audit-rate", 0.4,
             "--precision", "fp32", "--slice-rows", 40]  # fmt: skip
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    table = table_of(tmp_path / "out")
    assert table.column_names[-2:] == ["truncated", "windows"]
    counts = table["windows"].to_pylist()
    assert {*counts} == {1, 2, 3}
    texts = pq.read_table(tmp_path / "in" / "a.parquet")["text"].to_pylist()
    tokenizer = tiny_tokenizer(tmp_path)
    whole = [len(tokenizer(text)["input_ids"]) - 2 for text in texts]
    longer = [size > 10 + 8 + 8 for size in whole]
    assert table["truncated"].to_pylist() == longer
    assert json.loads(result.stdout.splitlines()[-1])["truncated_rows"] == sum(longer)
    tokens = table["tokens"].to_pylist()
    assert all(n == size + 2 for n, size, k in zip(tokens, whole, counts, strict=True) if k == 1)
    library = fastbert.load(tmp_path / "model", precision="fp32")
    point = library.point(speed=0.4)
    rule = Threshold.of([0.4] * LAYERS)
    assert point is not None
    read = Tokenizer(tokenizer, Windows(3, 2))(texts, None, LENGTH)
    found = Engine(library.model).classify(read, rule)
    depths = [each.depth for each in library.model.exits]
    assert table["exit_layer"].to_pylist() == [depths[k] for k in found.exit]
    names = library.model.config.label_names
    assert table["label"].to_pylist() == [names[k] for k in found.answer["label"]]
    cost = CostModel(library.model)
    assert table["flops"].to_pylist() == cost.row_flops(read.costly, found.exit).tolist()
    same = library.label(texts, speed=0, as_="arrow")
    assert same["windows"].to_pylist() == counts
    assert [each.windows for each in library.label(texts, speed=0)] == counts
    deep = Engine(library.model).classify(read, Threshold.of([0.0] * LAYERS))
    assert same["label"].to_pylist() == [names[k] for k in deep.answer["label"]]
    calibrated = invoke("calibrate", "--model", tmp_path / "model", "--corpus", tmp_path / "train",
                        "--max-disagreement", 0.3)  # fmt: skip
    assert calibrated.exit_code == 0, calibrated.output
    judged = invoke("evaluate", "--model", tmp_path / "model", "--data", tmp_path / "in",
                    "--no-timing")  # fmt: skip
    judged = json.loads(judged.stdout.splitlines()[-1])
    assert judged["full_depth_flops"] == judged["speeds"][0]["flops"]
    again = json.loads(invoke(*asked).stdout.splitlines()[-1])
    assert again["slices_labelled"] == 0
    assert POSITIONS > LENGTH
