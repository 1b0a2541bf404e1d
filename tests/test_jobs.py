"""The commands from outside: help, wrong input, exit codes, config files, channels."""

import json
import os
import shutil
import subprocess
import sys
from inspect import cleandoc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from support.jobs import invoke, refused
from support.models import tiny_classifier, tiny_tokenizer
from support.shards import random_texts, write_shard

from fastbert import __version__
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import resolve
from fastbert.inference.tokens import tokenize
from fastbert.weights import load_model
from jobs.__main__ import main
from jobs.commands import COMMANDS

JOBS = [*COMMANDS]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def corpus(tmp_path) -> Path:
    write_shard(tmp_path / "in" / "a.parquet", random_texts(9), label=list("xyxyxyxyx"))
    return tmp_path / "in"


@pytest.mark.parametrize("job", JOBS)
def test_help(job):
    result = invoke(job, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert f"fastbert {job}" in result.stdout
    assert "--config" in result.stdout


@pytest.mark.parametrize("job", JOBS)
def test_the_script_is_the_command(job):
    script = [sys.executable, f"jobs/{job}.py", "--help"]
    shown = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    expected = CliRunner().invoke(main, [job, "--help"], prog_name="fastbert").stdout
    found = shown.stdout.replace(f"{job}.py", f"fastbert {job}", 1)
    assert "".join(found.split()) == "".join(expected.split())  # lines break elsewhere


def test_one_command_lists_all_and_imports_nothing_heavy():
    heavy = {"torch", "ray", "transformers", "numpy", "pyarrow", "pandas", "duckdb"}
    script = (
        "import sys; from jobs.__main__ import main; main(['--help'], standalone_mode=False); "
        f"print(sorted({heavy} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-1] == "[]"
    said = " ".join(shown.stdout.split())
    for job, entry in COMMANDS.items():
        assert f" {job} {cleandoc(entry.says).partition('.')[0]}." in said
    assert CliRunner().invoke(main, ["--version"]).stdout == f"fastbert, version {__version__}\n"


def test_a_mistake_in_one_command_is_wrong_usage():
    result = CliRunner().invoke(main, ["lable"])
    assert result.exit_code == 2
    assert "No such command" in result.stderr
    result = CliRunner().invoke(main, ["label", "--input", "x", "--output", "y", "--model", "none"])
    refused(result, "no checkpoint at")


def test_files_of_jobs_shadow_no_library(tmp_path):
    """`python jobs/x.py` puts jobs/ first on the path."""
    package = shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    (package / "yaml.py").write_text("raise ImportError('shadowed')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    for script in ("label", "__main__"):
        command = [sys.executable, str(package / f"{script}.py"), "--help"]
        shown = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("job", JOBS)
def test_misspelt_option(job):
    result = invoke(job, "--ouput", "x")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


def test_label_without_a_point(corpus, checkpoint, tmp_path):
    result = invoke("label", "--input", corpus, "--output", tmp_path, "--model", checkpoint)
    refused(result, "no default operating point", "--speed", "--operating-point")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--speed", "1.5"], ["--speed is 1.5", "from 0 to 1"]),
        (["--speed", "0.5", "--operating-point", "x"], ["exclude each other"]),
        (["--operating-point", "x"], ["no operating point 'x'", "--speed"]),
        (["--speed", "0.5", "--slice-rows", "0"], ["--slice-rows is 0"]),
        (["--speed", "0.5", "--replicas", "4:2"], ["--replicas is '4:2'", "MIN:MAX"]),
        (["--speed", "0.5", "--audit-rate", "2"], ["--audit-rate is 2.0"]),
        (["--speed", "0.5", "--text-column", "body"], ["no column 'body'", "text, id, label"]),
        (["--speed", "0.5", "--text-column", "id"], ["'id' is of type int64", "expected string"]),
        (["--speed", "0.5", "--carry", "nope"], ["no column 'nope'"]),
        (["--speed", "0.5", "--run-id", "team/nightly"], ["--run-id is 'team/nightly'", "letters"]),
    ],
)
def test_label_refuses_wrong_options(corpus, checkpoint, tmp_path, options, parts):
    output = tmp_path / "out"
    refused(
        invoke("label", "--input", corpus, "--output", output, "--model", checkpoint, *options),
        *parts,
    )
    assert not [path for path in output.rglob("*") if path.is_file()]  # before any work


def test_label_refuses_wrong_places(corpus, checkpoint, tmp_path):
    common = ["--output", tmp_path / "out", "--speed", "0.5"]
    missing = invoke("label", "--input", corpus, "--model", tmp_path / "none", *common)
    refused(missing, "no checkpoint at", "expected a directory")
    nothing = invoke("label", "--input", tmp_path / "nowhere", "--model", checkpoint, *common)
    refused(nothing, "no Parquet, Arrow, ", "nowhere")
    (tmp_path / "text.parquet").write_text("not Parquet")
    rubbish = invoke("label", "--input", tmp_path / "text.parquet", "--model", checkpoint, *common)
    refused(rubbish, "no shard can be labelled", "cannot be read as Parquet")


def test_label_refuses_an_output_that_would_label_itself(corpus, checkpoint):
    common = ["--model", checkpoint, "--speed", "0.5"]
    inside = invoke("label", "--input", corpus, "--output", corpus / "labels", *common)
    refused(inside, "lies inside --input", "beside the input")
    detour = corpus / ".." / corpus.name
    refused(invoke("label", "--input", detour, "--output", corpus / "x", *common), "lies inside")
    write_shard(corpus / "raw" / "dt=1" / "part-1.parquet", random_texts(3))
    for pattern in ("**/*.parquet", "**", "**/dt=*/*.parquet", "**/part-[0-9]*.parquet"):
        glob = invoke("label", "--input", corpus / pattern, "--output", corpus / "x", *common)
        refused(glob, "lies inside --input")
    (corpus / "raw" / "linked").symlink_to(corpus / "labels")
    write_shard(corpus / "labels" / "table" / "raw" / "b.000000000000.parquet", random_texts(3))
    link = invoke("label", "--input", corpus / "raw", "--output", corpus / "labels", *common)
    refused(link, "lies inside --input")
    (corpus / "raw" / "linked").unlink()
    # Labels of `dt=1/part-1` would lie deeper than this looks.
    deeper = ["--input", corpus / "*" / "*" / "*.parquet", "--output", corpus / "y", "--dry-run"]
    beside = invoke("label", *deeper, *common)
    assert beside.exit_code == 0, beside.output
    memory = invoke("label", "--input", corpus, "--output", "memory://out", *common)
    refused(memory, "memory://out", "use another file system")


def test_label_refuses_truncated_weights_before_any_work(corpus, checkpoint, tmp_path):
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[:-100])
    common = ["--input", corpus, "--output", tmp_path / "out", "--speed", "0.5"]
    refused(invoke("label", "--model", broken, *common), "weights in", "cannot be read")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("config.json", "config.json cannot be read"),
        ("tokenizer_config.json", "tokenizer_config.json cannot be read"),
        ("tokenizer.json", "no tokenizer in"),
    ],
)
def test_label_refuses_a_corrupted_checkpoint(corpus, checkpoint, tmp_path, name, says):
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    (broken / name).write_text("{")
    common = ["--input", corpus, "--output", tmp_path / "out", "--speed", "0.5"]
    refused(invoke("label", "--model", broken, *common), says)


def test_dry_run_says_what_would_be_done_and_does_nothing(corpus, checkpoint, tmp_path):
    output = tmp_path / "out"
    result = invoke(
        "label", "--input", corpus, "--output", output, "--model", checkpoint, "--speed", "0.5",
        "--slice-rows", "4", "--dry-run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["slices_to_label"], summary["rows_to_label"]) == (3, 9)
    assert not output.exists()
    found = summary["estimate"]
    assert found["by"] == "a probe of 9 rows on cpu here"
    assert 0 < found["seconds"] < 9
    assert 0 < found["full_depth_seconds"] < 9
    assert 0 < found["startup_seconds"] < 60


def test_config_file_and_command_line(corpus, checkpoint, tmp_path):
    config = tmp_path / "label.yaml"
    config.write_text(
        f"input: {corpus}\nmodel: {checkpoint}\noutput: {tmp_path / 'out'}\n"
        "speed: 7\nslice-rows: 4\ndry_run: true\nreplicas: 1:8\nrun-id:\n"
    )
    refused(invoke("label", "--config", config), "--speed is 7")
    result = invoke("label", "--config", config, "--speed", "0.5")  # the command line wins
    assert json.loads(result.stdout)["slices_to_label"] == 3


@pytest.mark.parametrize("text", ["speeed: 1", "- speed", "speed: [", "config: x.yaml"])
def test_wrong_config_files(tmp_path, text):
    config = tmp_path / "label.yaml"
    config.write_text(text)
    result = invoke("label", "--config", config)
    assert result.exit_code == 2
    assert str(config) in result.stderr


def test_train_refuses_wrong_input(corpus, tmp_path):
    output = ["--output", tmp_path / "model"]
    refused(invoke("train", "--train", tmp_path / "none", *output), "no Parquet, Arrow, ")
    column = ["--label-column", "class"]
    refused(invoke("train", "--train", corpus, *output, *column), "no column 'class'")
    backbone = ["--backbone", tmp_path / "none"]
    refused(invoke("train", "--train", corpus, *output, *backbone), "cannot load the backbone")
    length = ["--max-length", "100000"]
    refused(invoke("train", "--train", corpus, *output, *length), "--max-length is 100000")
    refused(invoke("train", "--train", corpus, *output, "--workers", "0"), "--workers is 0")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_distill_then_evaluate(family, tmp_path, corpus):
    """From a classifier of another team to a table of speeds, with no label seen in between."""
    tiny_classifier(family, labels=2).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer(tmp_path, family).save_pretrained(tmp_path / "teacher")
    result = invoke(
        "distill", "--teacher", tmp_path / "teacher", "--corpus", corpus, "--output",
        tmp_path / "model", "--max-length", "32", "--distil-epochs", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"] == 9
    assert load_model(tmp_path / "model").config.label_names == ["LABEL_0", "LABEL_1"]
    result = invoke(
        "evaluate", "--model", tmp_path / "model", "--data", corpus, "--no-labels",
        "--speeds", "0.5", "--speeds", "1", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    speeds = json.loads(result.stdout)["speeds"]
    assert [s["speed"] for s in speeds] == [0.0, 0.5, 1.0]
    assert speeds[0]["agreement"] == 1.0
    assert all(sum(s["exits"]) == 9 and s["realised_speedup"] > 0 for s in speeds)


@pytest.mark.parametrize("distil_epochs", [0.1, 30])
def test_distill_tells_how_the_exits_agree(distil_epochs, tmp_path, caplog):
    """On rows that they have not learnt from; those that have learnt nothing end with 3."""
    caplog.set_level("INFO")
    tokenizer, teacher = tiny_tokenizer(tmp_path), tiny_classifier()
    texts = random_texts(600, seed=2)
    with torch.no_grad():  # the classes are about as frequent
        logits = teacher(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        teacher.classifier.bias -= logits.mean(0)
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    write_shard(tmp_path / "in" / "a.parquet", texts)
    result = invoke(
        "distill", "--teacher", tmp_path / "teacher", "--corpus", tmp_path / "in", "--output",
        tmp_path / "model", "--max-length", "32", "--distil-epochs", distil_epochs,
        "--distil-learning-rate", "5e-3", "--no-bag",
    )  # fmt: skip
    summary = json.loads(result.stdout)
    assert summary["rows"] == 540
    held = np.random.default_rng(0).permutation(600)[:60]
    tokens = tokenize(tokenizer, [texts[i] for i in held], None, 32)
    engine = Engine(load_model(tmp_path / "model"), "cpu", DTYPES[resolve("auto", "cpu")])
    answers = engine.exit_logits(tokens).argmax(-1)
    agreement = (answers == answers[-1]).mean(1)
    assert summary["agreement_by_layer"] == pytest.approx(agreement, abs=1e-4)
    useless = agreement[:-1].max() <= np.bincount(answers[-1]).max() / 60
    assert useless == (distil_epochs < 1)
    assert result.exit_code == (3 if useless else 0)
    assert ("DO NOT TRUST THESE EXITS" in caplog.text) == useless
    assert "the same label as full depth, by layer: 1 " in caplog.text


def test_evaluate_prints_a_table_on_stderr(checkpoint, tmp_path):
    labels = ["ape", "bee", "ape"]
    write_shard(tmp_path / "a.parquet", random_texts(3), label=labels)
    result = invoke(
        "evaluate", "--model", checkpoint, "--data", tmp_path, "--speeds", "0.5", "--no-timing"
    )
    assert result.exit_code == 0, result.output
    assert "FLOPs speed-up" in result.stderr
    assert json.loads(result.stdout)["speeds"][1]["realised_speedup"] is None


def test_report_refuses_an_empty_output(tmp_path):
    refused(invoke("report", "--output", tmp_path), "no labels at")


def test_train_end_to_end_on_a_tiny_backbone(tmp_path):
    tiny_classifier().base_model.save_pretrained(tmp_path / "backbone")
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path / "backbone")
    texts = random_texts(40, longest=6)
    table = pa.table({"body": texts, "class": ["red" in text for text in texts]})
    pq.write_table(table, tmp_path / "train.parquet")
    result = invoke(
        "train", "--train", tmp_path / "train.parquet", "--dev", tmp_path / "train.parquet",
        "--output", tmp_path / "model", "--backbone", tmp_path / "backbone", "--text-column",
        "body", "--label-column", "class", "--epochs", "2", "--distil-epochs", "1",
        "--max-length", "16",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["classes"] == ["false", "true"]
    assert load_model(tmp_path / "model").config.max_length == 16


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_distilled_from_a_fine_tuned_classifier(family, tmp_path):
    """At speed 0 it is the original to 1e-5; at speed 0.5 rows leave early, labels in place."""
    texts = random_texts(120, seed=8, longest=5)
    truth = torch.tensor(["red" in text.split() for text in texts]).long()
    tokenizer = tiny_tokenizer(tmp_path, family)
    teacher = tiny_classifier(family, labels=2)
    teacher.config.id2label, teacher.config.label2id = (
        {0: "plain", 1: "red"},
        {"plain": 0, "red": 1},
    )
    batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for _ in range(60):
        torch.nn.functional.cross_entropy(teacher(**batch).logits, truth).backward()
        optimizer.step()
        optimizer.zero_grad()
    teacher.eval()
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    write_shard(tmp_path / "in" / "a.parquet", texts)
    result = invoke(
        "distill", "--teacher", tmp_path / "teacher", "--corpus", tmp_path / "in", "--output",
        tmp_path / "model", "--max-length", "32", "--distil-epochs", "30", "--batch-size", "16",
        "--distil-learning-rate", "5e-3",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "model")
    assert model.config.label_names == ["plain", "red"]
    tokens = tokenize(tokenizer, texts, None, 32)
    with torch.no_grad():
        expected = teacher(**batch).logits
    found = torch.from_numpy(Engine(model).exit_logits(tokens)[-1])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    fast = Engine(model).classify(tokens, OperatingPoint.of_speed(0.5, model.config).rule())
    assert ((fast.exit > 0) & (fast.exit < 3)).mean() > 0.5
    assert (fast.answer["label"] == expected.argmax(-1).numpy()).mean() > 0.9
