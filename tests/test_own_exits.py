"""A classifier without exits: the output makes some, keeps them, and goes on with them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from pkgutil import resolve_name

import pytest
from support import ROOT
from support.labelling import any_settings, table_of
from support.models import make_noisy, tiny_classifier, tiny_tokenizer
from support.shards import random_texts, write_shard
from transformers import AutoModelForSequenceClassification, pipeline

from fastbert.errors import InputError
from pipelines.checkpoints import making, own_exits
from pipelines.output.lock import RunLock
from pipelines.reports.job import report
from pipelines.settings import ReportSettings

ROWS = 400
TEXTS = random_texts(ROWS, seed=6)


class Killed(BaseException):
    """As a signal that cannot be handled."""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Labels `in` with the classifier, in this process."""
    write_shard(tmp_path / "in" / "a.parquet", TEXTS)
    classifier(tmp_path / "classifier", seed=5)
    here = lambda function, *given: resolve_name(function)(*given)  # noqa: E731
    monkeypatch.setattr(own_exits, "apart", here)
    for module in ("pipelines.labelling.job", "pipelines.checkpoints.own_exits"):
        monkeypatch.setattr(f"{module}.RunLock", lambda s, r: RunLock(s, r, settle=0))
    monkeypatch.setattr("fastbert.training.recipes._MOST_EPOCHS", 3.0)

    def run(output="out", models=("classifier",), **options):
        given = {"make_exits": "always", "max_disagreement": 0.2, "slice_rows": 64} | options
        places = tmp_path / "in", tmp_path / output, *(tmp_path / name for name in models)
        return own_exits.label_with_any(any_settings(*places, **given))

    return run


def classifier(folder: Path, seed: int, like: Path | None = None) -> None:
    """With three classes, on the backbone of another one if there is one."""
    model = tiny_classifier(labels=3)
    make_noisy(model, seed)
    if like is not None:
        theirs = AutoModelForSequenceClassification.from_pretrained(like).base_model.state_dict()
        model.base_model.load_state_dict(theirs)
    model.config.id2label = dict(enumerate(["ape", "bee", "cow"]))
    model.config.label2id = {name: k for k, name in model.config.id2label.items()}
    model.save_pretrained(folder)
    tiny_tokenizer(folder).save_pretrained(folder)


def full_depth(folder: Path) -> list[str]:
    ask = pipeline("text-classification", str(folder), truncation=True, max_length=64)
    return [found["label"] for found in ask(TEXTS)]


def test_exits_are_made_once_and_used_every_night(job, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    first = job()
    assert first["rows"] == ROWS
    assert first["operating_point"] == "max-disagreement-0.2"
    assert first["classifiers"] == [str(tmp_path / "classifier")]
    assert first["model"] == str(tmp_path / "out" / "model")
    same = [a == b for a, b in zip(table_of(tmp_path / "out")["label"].to_pylist(),
                                   full_depth(tmp_path / "classifier"), strict=True)]  # fmt: skip
    assert sum(same) >= 0.8 * ROWS
    assert first["flops_speedup"] > 1
    assert caplog.messages[-1] == f"next: fastbert report --output {tmp_path / 'out'}"
    monkeypatch.setattr(own_exits, "_make", None)  # not called again
    write_shard(tmp_path / "in" / "b.parquet", TEXTS[:50])
    caplog.clear()
    second = job()
    assert "next: " not in caplog.text  # this output is known
    assert (second["rows"], second["slices_up_to_date"]) == (50, 7)
    assert second["checkpoint"] == first["checkpoint"]
    assert job()["rows"] == 0


@pytest.mark.parametrize("moment", ["give_exits", "prove", "_encoded"])
def test_a_run_that_is_killed_goes_on(job, tmp_path, monkeypatch, moment):
    """During learning, before the proof, and before the model is recorded as complete."""
    job("undisturbed")
    module = own_exits if moment == "_encoded" else making
    taught, real = [], making.give_exits

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, moment, killed)
        for _ in range(2):
            with pytest.raises(Killed):
                job()
    monkeypatch.setattr(making, "give_exits", lambda asked: (taught.append(1), real(asked)))
    assert job()["rows"] == ROWS
    assert len(taught) == (moment == "give_exits")  # what was learnt is not learnt again
    columns = ["label", "score", "exit_layer", "uncertainty", "flops"]
    found, expected = (table_of(tmp_path / name) for name in ("out", "undisturbed"))
    assert found.select(columns).equals(expected.select(columns))


def test_where_it_does_not_pay_the_whole_model_answers(job, tmp_path, caplog, capsys):
    caplog.set_level("INFO")
    found = job(make_exits="auto", audit_rate=0.5)
    assert "no rows are audited, because all of them pass all layers" in caplog.text
    assert (found["audit_rows"], found["audit_agreement"]) == (0, None)
    report(ReportSettings(output=str(tmp_path / "out")))
    said = capsys.readouterr().err
    assert re.search(r"cost [\d.]+ seconds of the model; all rows passed all layers\.", said)
    shown = r"exit layers\s+layer .*\s+─+\s+3 +400 "  # without layers that have no rows
    assert re.search(shown, said)
    assert "too few rows for that (--make-exits" in caplog.text
    assert found["operating_point"] == "full-depth"
    assert found["flops_speedup"] == 1
    assert table_of(tmp_path / "out")["label"].to_pylist() == full_depth(tmp_path / "classifier")
    assert job("never", make_exits="never")["operating_point"] == "full-depth"
    assert job(make_exits="auto")["rows"] == 0


def test_where_nothing_is_proven_the_whole_model_answers(job, tmp_path, caplog):
    found = job(max_disagreement=0.001)
    assert "the whole model answers all rows, because" in caplog.text
    assert found["operating_point"] == "full-depth"
    assert found["rows"] == ROWS


def test_another_classifier_or_promise_needs_a_word(job, tmp_path):
    job()
    with pytest.raises(InputError, match="made for max disagreement 0.2, this run has 0.1; pass"):
        job(max_disagreement=0.1)
    shutil.rmtree(tmp_path / "classifier")
    classifier(tmp_path / "classifier", seed=6)
    with pytest.raises(InputError, match="made for classifiers"):
        job()
    again = job(relabel=True)
    assert again["rows"] == ROWS
    assert job()["rows"] == 0


def test_what_says_which_exits_to_use_needs_some(job):
    for option in ({"speed": 0.5}, {"operating_point": "x"}):
        with pytest.raises(InputError, match="has no exits"):
            job(**option)


def test_bad_files_are_left_out_of_the_sample(job, tmp_path):
    (tmp_path / "in" / "b.parquet").write_text("no Parquet")
    (tmp_path / "in" / "c.jsonl").write_text(json.dumps({"text": "the red"}) + "\n{\n")
    found = job()
    assert (found["rows"], found["exit_code"], found["error_rows"]) == (ROWS + 2, 3, 1)


def test_a_wrong_column_is_named(job):
    with pytest.raises(
        InputError, match=r"a.parquet has no column 'body'; its columns are text, id"
    ):
        job(text_column="body")


def test_texts_are_read_as_far_as_the_classifier_reads(job, tmp_path, caplog):
    """Up to 512 tokens: here all that it takes, though all texts are shorter."""
    caplog.set_level("INFO")
    job(make_exits="never")
    assert (
        "read up to 41 tokens, the most that the backbone takes, which holds 100.0%" in caplog.text
    )
    assert "the text is column 'text'; 'full-depth', in fp32" in caplog.text


def test_a_dry_run_estimates_and_makes_nothing(job, tmp_path):
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "the red"}')
    found = job(dry_run=True)
    assert found["models_to_make"] == [str(tmp_path / "classifier")]
    estimate = found["estimate"]
    assert (estimate["rows"], estimate["makes_exits"]) == (ROWS + 1, True)
    assert not job(dry_run=True, make_exits="never")["estimate"]["makes_exits"]
    with pytest.raises(InputError, match="no column 'body'"):
        job(dry_run=True, text_column="body")
    assert not (tmp_path / "out").exists()


def test_exits_are_made_where_there_are_many_rows():
    asked = any_settings("x", "y", "z", make_exits="auto")
    plans = [making._plan(asked, rows, 4) for rows in (0, 1000, 100_000, 1_000_000, 10**9)]
    assert [plan.makes for plan in plans] == [False, False, False, True, True]
    assert plans[-1].sample == 25_000
    assert all(
        plan.learn + plan.prove <= rows for plan, rows in zip(plans, (0, 1000), strict=False)
    )


def test_models_of_one_backbone_answer_together(job, tmp_path):
    names = ("classifier", "tone")
    classifier(tmp_path / "tone", seed=7, like=tmp_path / "classifier")
    found = job(models=names, make_exits="never")
    table = table_of(tmp_path / "out")
    for name in names:
        assert table[f"{name}_label"].to_pylist() == full_depth(tmp_path / name)
    assert found["classifiers"] == [str(tmp_path / name) for name in names]
    assert job(models=names, make_exits="never")["rows"] == 0
    with pytest.raises(InputError, match="made for classifiers"):
        job(models=("tone", "classifier"), make_exits="never")


def test_other_models_have_an_output_each(job, tmp_path, monkeypatch):
    classifier(tmp_path / "a tone", seed=7)
    tried = []
    monkeypatch.setattr(own_exits, "apart", lambda function, *given: (
        tried.append(function), resolve_name(function)(*given))[1])  # fmt: skip
    models = ("classifier", "a tone")
    first = job(models=models, make_exits="never")
    assert first["exit_code"] == 0
    for model, output in zip(models, ("classifier", "a_tone"), strict=True):
        assert first["outputs"][output]["rows"] == ROWS
        found = table_of(tmp_path / "out" / output)["label"].to_pylist()
        assert found == full_depth(tmp_path / model)
    assert "pipelines.checkpoints.teachers:one_pass" in tried
    tried.clear()
    (tmp_path / "in" / "bad.parquet").write_text("no Parquet")
    again = job(models=models, make_exits="never")
    assert not tried  # what the outputs are, they stay
    assert [each["rows"] for each in again["outputs"].values()] == [0, 0]
    assert again["exit_code"] == 3


def test_a_checkpoint_and_a_classifier_have_an_output_each(job, tmp_path):
    job("first", make_exits="never")
    shutil.copytree(tmp_path / "first" / "model", tmp_path / "ours")
    found = job(models=("ours", "classifier"), make_exits="never")
    labels = [table_of(tmp_path / "out" / name)["label"] for name in found["outputs"]]
    assert labels[0].equals(labels[1])


def test_models_that_cannot_be_told_apart(job, tmp_path):
    classifier(tmp_path / "b" / "classifier", seed=7)
    with pytest.raises(InputError, match="named classifier, classifier, but each needs"):
        job(models=("classifier", "b/classifier"))
    with pytest.raises(InputError, match="names one model twice"):
        job(models=("classifier", "classifier"))


@pytest.mark.parametrize("of", ["3", "tone=3"])
def test_cutoffs_of_several_models_name_one(job, tmp_path, of):
    classifier(tmp_path / "b", seed=7)
    with pytest.raises(InputError, match="expected the name of a model before it, as in classifie"):
        job(models=("classifier", "b"), cutoff=(of,))


def test_each_model_gets_the_cutoffs_that_name_it():
    asked = any_settings("x", "y", "hub/a", "b", cutoff=("a=3", "b=1", "a=4"), tolerance=("b=2",))
    found = [(each.cutoff, each.tolerance) for each in own_exits._of_each(asked)]
    assert found == [(("3", "4"), ()), (("1",), ("2",))]


def test_the_output_of_one_model_is_not_for_several(job, tmp_path):
    job(make_exits="never")
    classifier(tmp_path / "b", seed=7)
    with pytest.raises(InputError, match="holds the labels of one model"):
        job(models=("classifier", "b"))


@pytest.mark.integration
def test_the_command_killed_three_times(tmp_path):
    """While exits learn, while they are proven or shortly after, and while rows are labelled."""
    write_shard(tmp_path / "in" / "a.parquet", TEXTS * 2)
    classifier(tmp_path / "classifier", seed=5)
    command = [sys.executable, "-m", "jobs", "label", "--model", str(tmp_path / "classifier"),
               "--input", str(tmp_path / "in"), "--make-exits", "always", "--max-disagreement",
               "0.2", "--slice-rows", "16", "--cpus-per-replica", "1"]  # fmt: skip

    def run(output: str, until: str | None = None) -> None:
        """To the end, or until a file is there."""
        here = {"cwd": ROOT, "start_new_session": True, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([*command, "--output", str(tmp_path / output)], **here)
        while until and not list(tmp_path.glob(f"{output}/{until}")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        if until:
            os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=300)
        assert until or process.returncode == 0, said

    run("undisturbed")
    for until in ("ledger/lock.json", "ledger/model_taught", "table/a.000000000160.parquet"):
        run("out", until)
    run("out")
    found, expected = (table_of(tmp_path / name) for name in ("out", "undisturbed"))
    columns = ["id", "label", "score", "exit_layer", "flops"]
    assert found.select(columns).equals(expected.select(columns))
