"""Benchmarks run in quiet, once in a while; here they only show that they still could."""

import json
import re
import subprocess
import sys
from importlib import import_module

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from support import ROOT
from support.models import tiny_fastbert, tiny_tokenizer, with_bag
from support.shards import random_texts

from benchmarks import RESULTS
from benchmarks.pages import scale
from benchmarks.pages.gpu import section
from benchmarks.pages.markdown import load
from benchmarks.speed import at_scale, gpu_corpus
from fastbert.weights import save_checkpoint

#: Packages of peers, which only those install who compare with them.
PEERS = ("onnxruntime", "onnxruntime.quantization")

IMPORT_ALL = f"""
import json, sys, traceback
from importlib import import_module
from importlib.machinery import ModuleSpec
from pkgutil import walk_packages
from unittest.mock import MagicMock

import benchmarks

sys.modules |= {{name: MagicMock(__spec__=ModuleSpec(name, None)) for name in {PEERS}}}
failed = {{}}
for module in walk_packages(benchmarks.__path__, "benchmarks."):
    try:
        import_module(module.name)
    except Exception:
        failed[module.name] = traceback.format_exc().splitlines()[-1]
print(json.dumps(failed))
"""


def test_every_benchmark_finds_what_it_imports():
    command = [sys.executable, "-c", IMPORT_ALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {}


#: Results for which no checkpoint was needed, and what they are of instead.
WITHOUT_CHECKPOINT = {
    **{"tokenizing": "tokenizer", "formats": "tokenizer", "scale": "options"},
    **{"at_scale": "options", "at_scale_before": "options"},
}


def test_results_name_their_commit_and_checkpoint_or_say_why_they_are_older():
    for path in sorted(RESULTS.rglob("*.json")):
        found = json.loads(path.read_text())
        known = {key: value for part in parts(found) for key, value in part.items()}
        if kept := found.get("kept"):
            assert len(kept["commit"]) == 12, path.name
            assert len(kept["why"]) > 20, path.name
            continue
        assert re.fullmatch("[0-9a-f]{12}", known.get("commit") or ""), path.name  # no "-dirty"
        assert known.get(WITHOUT_CHECKPOINT.get(path.stem, "checkpoint")), path.name


def parts(found):
    """It and all dictionaries in it."""
    if isinstance(found, dict):
        yield found
        for each in found.values():
            yield from parts(each)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.parquet"
    pq.write_table(pa.table({"text": random_texts(60, seed=1)}), path)
    return path


def test_the_engine_without_one_of_its_ideas_gives_the_same_labels(checkpoint, texts, tmp_path):
    found = run("speed.ablations", tmp_path, "--model", checkpoint, "--data", texts,
                "--speed", 0.5, "--rows", 60, "--rounds", 1)  # fmt: skip
    assert found["rows"] == 60
    assert all(ratio > 0 for ratio in found["ratio"].values())


def test_the_program_for_gpus_runs_without_one(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_corpus, "_CALIBRATING", 400)
    monkeypatch.setattr(gpu_corpus, "_PROMISE", 0.5)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    texts = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": random_texts(600, seed=1)}), texts)
    small = ("--device", "cpu", "--tiny", "--rows", 64, "--rounds", 1)
    found = run("speed.gpu", tmp_path, *small, "--model", checkpoint, "--texts", texts)
    assert len(found["throughput"]) == 3
    for result in found["throughput"]:
        assert 1 <= result["mean_layers"] < 3
        assert result["flops_speedup"] > 1
    assert found["answers"]["fp32"]["same_label"] == 1
    assert found["company"]["alone"]["same_label"] > 0.9
    assert sum(found["labelling"]["exits"]) == 200
    assert found["feeding"]["rows_per_second_of_one"] > 0
    monkeypatch.setattr("benchmarks.pages.gpu.RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.pages.gpu.load", lambda name: found)
    (tmp_path / "gpu.json").touch()
    page = section()
    assert page.count("missed") + page.count(": met") >= 6
    assert f"{found['labelling']['rows_per_second']['at 1 %']:,} rows/s" in page


def test_the_exit_before_the_first_layer_is_timed(tmp_path, texts):
    tokenizer, threads = tiny_tokenizer(tmp_path), torch.get_num_threads()
    save_checkpoint(with_bag(tiny_fastbert()), tokenizer, str(tmp_path / "model"))
    try:
        found = run("speed.bag", tmp_path, "--model", tmp_path / "model", "--data", texts,
                    "--rounds", 1)  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    assert found["taught_rows"] == 60
    assert found["rows_per_second"]["pairs"] > 0


def test_a_huge_row_group_is_read_slice_by_slice(tmp_path):
    found = run("speed.scale", tmp_path, "reading", "--work", tmp_path / "work",
                "--rows", 600, "--slice-rows", 100, "--rounds", 1)  # fmt: skip
    assert found["reading"]["slices"] == 6


def test_what_objects_of_a_store_cost_its_client(tmp_path):
    found = run("speed.at_scale", tmp_path, "client", "--work", tmp_path / "work",
                "--objects", 2_500, "--files", 30)["client"]  # fmt: skip
    assert found["footer"]["requests"] == {"HEAD": 1, "GET": 1}
    assert found["record read"]["requests"] == {"GET": 1}
    assert found["record removed"]["requests"] == {"DELETE": 1}
    assert found["output listed"]["requests"] == {"LIST": pytest.approx(3 / 2_500)}


def test_made_up_nights_label_what_is_new(tmp_path):
    save_checkpoint(tiny_fastbert(), tiny_tokenizer(tmp_path), str(tmp_path / "checkpoint"))
    nights = [at_scale.night(str(tmp_path), 200, what) for what in ("plan", "first", "nothing")]
    nights.append(at_scale.night(str(tmp_path), 200, "some"))
    assert [found["slices"] for found in nights] == [2000, 2000, 0, 20]


def test_the_page_of_scale_follows_from_what_was_measured(monkeypatch):
    kept = {name: load(name) for name in ("at_scale", "at_scale_before", "feeding", "scale")}
    monkeypatch.setattr(scale, "load", kept.__getitem__)
    each = kept["scale"]["overhead"]["sizes"][-1]["milliseconds_per_slice"]["job"]
    for milliseconds in (36.0, 72.0):
        each |= {"before": milliseconds - 2, "stages": 1, "after": 1}
        # 10,000 shards of 62 slices; 64 GPUs at 10,000 rows a second need 4.3 hours.
        driver, gpus = 620_000 * milliseconds / 3.6e6, 1e10 / 640_000 / 3600
        costs = scale.Costs()
        rest = (costs.start(10_000) + costs.end(620_000)) / 3600
        whole = max(driver, gpus) + rest
        page = scale.scale_page()
        assert f"| 16,384 | 620,000 | {scale.duration(3600 * driver)} |" in page
        row = next(line for line in page.splitlines() if line.startswith("| 10,000 | 4.3 h |"))
        assert f"| {scale.duration(3600 * whole)} ({100 * gpus / whole:.0f} %) |" in row


def run(program, folder, *arguments):
    """A program's JSON."""
    output = folder / "found.json"
    main = import_module(f"benchmarks.{program}").main
    done = CliRunner().invoke(main, [*map(str, arguments), "--output", str(output)])
    assert done.exit_code == 0, done.exception
    return json.loads(output.read_text())
