"""`fastbert.load(place).label(texts)`: what the labelling job gives, without a table."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.jobs import invoke
from support.shards import random_texts, write_shard

import fastbert
from fastbert import InputError, Label, library
from fastbert.exits.operating_point import Evidence, OperatingPoint, Promise

COLUMNS = ["label", "score", "exit_layer", "uncertainty", "tokens", "error", "truncated"]
#: All that a checkpoint may have beside what is needed.
DANGER = ["pytorch_model.bin", "modeling_fastbert.py", "optimizer.pt", "training_args.pkl"]


@pytest.fixture(scope="module")
def calibrated(checkpoint, tmp_path_factory) -> Path:
    """With the default point "sure", proven in bf16, and another, "bold"."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("library") / "model")
    proof = Evidence(900, 0, 0.01, [300, 300, 300], 1.5, "", "bf16", "")
    points = [
        OperatingPoint("sure", [0.5, 0.6], promise=Promise(0.01, 0.95), evidence=proof),
        OperatingPoint("bold", [0.9, 0.9], "margin"),
    ]
    config = json.loads((folder / "config.json").read_text())
    config["operating_points"] = {point.name: point.settings() for point in points}
    config["default_operating_point"] = "sure"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_three_lines(calibrated):
    model = fastbert.load(calibrated, precision="fp32")
    (found,) = model.label(["the red stone"])
    assert isinstance(found, Label)
    assert found.label in model.model.config.label_names
    assert 0 < found.score <= 1
    assert found.exit_layer in (1, 2, 3)
    assert (found.tokens, found.error) == (5, None)
    table = model.label(["the red stone"] * 2, as_="arrow")
    assert [row | {"scores": None, "windows": None} for row in table.to_pylist()] == [
        vars(found)
    ] * 2
    assert table.column_names == COLUMNS
    assert model.label([]) == []
    assert model.label([], as_="arrow").schema == table.schema


def test_points_and_speeds(calibrated):
    model, texts = fastbert.load(calibrated, precision="fp32"), random_texts(60)

    def exits(model, **asked):
        return model.label(texts, as_="arrow", **asked)["exit_layer"].to_pylist()

    assert set(exits(model, speed=0)) == {3}
    assert set(exits(model, speed=1)) == {1}
    assert exits(model) == exits(model, operating_point="sure") != exits(model, speed=0)
    bold = fastbert.load(calibrated, precision="fp32", operating_point="bold")
    assert exits(bold) == exits(model, operating_point="bold") != exits(model)
    assert exits(bold, speed=0) == exits(model, speed=0)
    assert exits(fastbert.load(calibrated, precision="fp32", speed=0.7)) == exits(model, speed=0.7)


@pytest.mark.integration
def test_it_answers_as_the_labelling_job(calibrated, tmp_path):
    """Also texts that have no answer, and pairs."""
    texts = [*random_texts(50), None, "", " \n", "x" * 500]
    pairs = [*random_texts(50, seed=1), "a", None, "b", "y z"]
    shard = write_shard(tmp_path / "in" / "a.parquet", texts, other=pairs)
    model = fastbert.load(calibrated, device="cpu", precision="fp32")
    for name, given, options in (
        ("single", texts, []),
        ("pair", list(zip(texts, pairs, strict=True)), ["--pair-column", "other"]),
    ):
        common = ["--input", shard, "--output", tmp_path / name, "--model", calibrated]
        done = invoke("label", *common, *options, "--precision", "fp32", "--max-bad-rows", "1",
                      "--gpus-per-replica", "0", "--speed", "0.4")  # fmt: skip
        assert done.exit_code == 0, done.output
        job = pq.read_table(tmp_path / name / "table" / "a.000000000000.parquet").select(COLUMNS)
        found = model.label(given, speed=0.4, as_="arrow")
        assert {1, 3} <= set(found["exit_layer"].to_pylist())  # control
        assert found.schema == job.schema.remove_metadata()
        for column in ("label", "exit_layer", "tokens", "error", "truncated"):
            assert found[column].to_pylist() == job[column].to_pylist(), column
        for column in ("score", "uncertainty"):
            one, other = (t[column].to_numpy().astype(float) for t in (found, job))
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_alone_and_in_company(calibrated, monkeypatch):
    """A row's answer does not depend on other rows, nor on where the list is divided."""
    model = fastbert.load(calibrated, precision="fp32")
    texts = [*random_texts(30, seed=2), None, "", *random_texts(8, seed=3)]
    together = model.label(texts)
    monkeypatch.setattr(library, "_PORTION", 7)
    for rows in (texts, texts[::-1], *([text] for text in texts)):
        for text, found in zip(rows, model.label(rows), strict=True):
            expected = together[texts.index(text)]
            same = ("label", "exit_layer", "tokens", "error")
            assert [getattr(found, n) for n in same] == [getattr(expected, n) for n in same]
            if text:
                assert found.score == pytest.approx(expected.score, abs=1e-6)
                assert found.uncertainty == pytest.approx(expected.uncertainty, abs=1e-6)


def test_texts_without_an_answer(calibrated):
    model = fastbert.load(calibrated, precision="fp32")
    errors = [row.error for row in model.label([None, "", "\t", "a\ud800", "the red"])]
    assert errors[:3] == ["text is null", "text is empty", "text is empty"]
    assert "not UTF-8" in errors[3]
    assert errors[4] is None
    assert model.label([None]) == [Label(None, None, None, None, None, "text is null", None)]
    pairs = [("the", "red"), ("the", None), ("", "red"), None]
    assert [row.error for row in model.label(pairs)] == [
        None, "text is null", "text is empty", "text is null",
    ]  # fmt: skip


def test_answers_that_are_no_numbers(calibrated):
    model = fastbert.load(calibrated, precision="fp32")
    with torch.no_grad():
        model.model.get_parameter("backbone.embeddings.LayerNorm.weight").fill_(float("nan"))
    (found,) = model.label(["the red"])
    assert (found.label, found.error) == (None, "the model's answer is not a number")


@pytest.mark.parametrize(
    ("precision", "supported", "asked", "expected"),
    [
        ("auto", ["fp32", "bf16"], {}, "bf16"),  # what the point was proven in
        ("auto", ["fp32"], {}, "fp32"),
        ("fp32", ["fp32", "bf16"], {}, "fp32"),
        ("auto", ["fp32"], {"speed": 0.5}, "fp32"),
    ],
)
def test_precision(calibrated, monkeypatch, precision, supported, asked, expected):
    monkeypatch.setattr(library.arithmetic, "supports", lambda name, device: name in supported)
    model = fastbert.load(calibrated, precision=precision)
    model.label(["the red"], **asked)
    assert list(model._engines) == [(expected, None)]


def wrong(match: str, call, *arguments, **options) -> None:
    with pytest.raises(InputError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_mistakes_are_one_line(checkpoint, calibrated, tmp_path):
    model = fastbert.load(calibrated, precision="fp32")
    wrong("one text, expected a list", model.label, "the red")
    wrong(r"texts\[1\] is int, expected a text", model.label, ["the", 3])
    wrong(r"texts\[0\] is str, expected a pair", model.label, ["the", ("a", "b")])
    wrong(r"texts\[0\] is tuple, expected a pair", model.label, [("a", "b", "c")])
    wrong("speed is 2, expected", model.label, ["the"], speed=2)
    wrong("exclude each other", model.label, ["the"], speed=0.5, operating_point="bold")
    wrong("no operating point 'x'", model.label, ["the"], operating_point="x")
    wrong("no operating point 'x'", fastbert.load, calibrated, operating_point="x")
    wrong("precision is 'fp4'", fastbert.load, calibrated, precision="fp4")
    wrong("fp8 is for GPUs", fastbert.load, calibrated, precision="fp8", device="cpu")
    wrong("no checkpoint at", fastbert.load, str(tmp_path / "none"))
    wrong("no default operating point", fastbert.load(checkpoint).label, ["the"])
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    wrong("model_type 'bert', expected 'fastbert'", fastbert.load, tmp_path)


def test_a_checkpoint_of_the_hub(calibrated, tmp_path, monkeypatch):
    """Only what holds numbers, words and settings is asked for."""
    asked = {}

    def download(repository, allow_patterns):
        asked.update(repository=repository, patterns=allow_patterns)
        return str(calibrated)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert fastbert.load("news/labels", precision="fp32").label(["the red"])[0].error is None
    assert asked["repository"] == "news/labels"
    from huggingface_hub.utils import filter_repo_objects

    files = [path.name for path in calibrated.iterdir()]
    kept = list(filter_repo_objects([*files, *DANGER], allow_patterns=asked["patterns"]))
    assert kept == files
    # A folder of this name goes first.
    shutil.copytree(calibrated, tmp_path / "news" / "labels")
    asked.clear()
    fastbert.load("news/labels")
    assert not asked


def test_a_hub_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong("no checkpoint 'news/none': it is neither a local folder", fastbert.load, "news/none")


def test_pickles_are_never_read(calibrated, tmp_path):
    folder = shutil.copytree(calibrated, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    wrong("no .safetensors weights", fastbert.load, folder)


def test_importing_the_name_imports_nothing():
    script = "import sys, fastbert; print({'torch', 'transformers'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.stdout == "set()\n"
    assert "load" in dir(fastbert)


def test_the_lines_of_the_documentation_run(calibrated, tmp_path, monkeypatch):
    for place in ("models/news", "corpus/topics/model"):
        shutil.copytree(calibrated, tmp_path / place)
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).resolve().parents[1]
    pages = [(root / name).read_text() for name in ("README.md", "docs/library.md")]
    blocks = re.findall(r"```python\n(.*?)```", "".join(pages), re.DOTALL)
    lines = list(itertools.chain.from_iterable(block.splitlines() for block in blocks))
    assert any("fastbert.load" in line for line in lines)
    assert any("pipeline(" in line for line in lines)
    exec("\n".join(lines), {})
