"""Texts that are cut are counted by every job, and told row by row."""

import json
import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from support.jobs import invoke
from support.labelling import settings, table_of
from support.models import tiny_tokenizer
from support.records import committed
from support.shards import random_texts, write_shard
from support.stages import InProcess

from fastbert.errors import InputError
from pipelines.labelling.job import Job, label
from pipelines.output.ledger import Ledger
from pipelines.output.storage import Storage

#: Of the checkpoint of these tests.
LONGEST = 32


@pytest.fixture
def corpus(tmp_path):
    """One text in three is cut; one row has no text, and one column is called like ours."""
    texts = [*random_texts(20, seed=4, longest=9), *("the red river " * 20 for _ in range(10))]
    write_shard(tmp_path / "in" / "a.parquet", [*texts, None], truncated=["theirs"] * 31)
    return tmp_path / "in"


def expected(corpus, tmp_path) -> list[bool | None]:
    """The slow way."""
    tokenizer = tiny_tokenizer(tmp_path)
    texts = pq.read_table(corpus / "a.parquet")["text"].to_pylist()
    return [None if t is None else len(tokenizer(t)["input_ids"]) > LONGEST for t in texts]


@pytest.mark.parametrize("job", ["calibrate", "evaluate"])
def test_jobs_that_look_at_a_corpus_say_how_many(job, corpus, checkpoint, tmp_path, caplog):
    shutil.copytree(checkpoint, tmp_path / "model")
    call = {
        "calibrate": ["--corpus", corpus, "--speedup", 1.0],
        "evaluate": ["--data", corpus, "--no-labels", "--no-timing"],
    }
    result = invoke(job, "--model", tmp_path / "model", *call[job])
    assert result.exit_code == 0, result.output
    assert f"10 of 30 texts (33.3%) are longer than the model's {LONGEST} tokens" in caplog.text


def test_few_cut_texts_are_no_warning(checkpoint, tmp_path, caplog):
    write_shard(tmp_path / "in" / "a.parquet", ["red"] * 39 + ["the red river " * 20])
    call = ["--data", tmp_path / "in", "--no-labels", "--no-timing"]
    found = json.loads(invoke("evaluate", "--model", checkpoint, *call).stdout)
    assert found["truncated_rows"] == 1
    assert "longer than" not in caplog.text  # which has warnings only


def test_a_new_output_tells_of_each_row(corpus, checkpoint, tmp_path, caplog):
    summary = label(settings(corpus, tmp_path / "out", checkpoint, speed=0.5), InProcess())
    table = table_of(tmp_path / "out")
    assert table.column_names[-2:] == ["error", "truncated"]
    assert table["truncated"].to_pylist() == expected(corpus, tmp_path)
    assert table["input_truncated"].to_pylist() == ["theirs"] * 31
    assert summary["truncated_rows"] == 10
    assert "10 of 31 texts" in caplog.text
    found = json.loads(invoke("report", "--output", tmp_path / "out").stdout)
    assert [run["truncated_rows"] for run in found["runs"]] == [10]


def test_an_old_output_keeps_its_columns_until_it_is_asked_for_more(
    corpus, checkpoint, tmp_path, monkeypatch
):
    """Made here as a release without the column would have: with what the ledger says, or, where
    that is lost, its files."""
    out, asked = tmp_path / "out", settings(corpus, tmp_path / "out", checkpoint, speed=0.5)
    settle = Job._settle

    def settle_without(job, last):
        settle(job, last)
        job.identity = replace(job.identity, truncated=False)

    monkeypatch.setattr(Job, "_settle", settle_without)
    label(asked, InProcess())
    monkeypatch.undo()
    assert table_of(out).column_names[-2:] == ["audit_label", "error"]
    assert "theirs" in table_of(out)["truncated"].to_pylist()

    def more(name: str, **changes):
        write_shard(corpus / name, ["red", "the red river " * 20], truncated=["a", "b"])
        return label(settings(corpus, out, checkpoint, speed=0.5, **changes), InProcess())

    assert more("b.parquet")["truncated_rows"] == 1
    with pytest.raises(InputError, match=r"labelled with truncated False, this run has True; pass"):
        more("c.parquet", truncated=True)
    assert more("c.parquet")["slices_labelled"] == 1
    before = table_of(out)
    assert before.column_names[-1] == "error"
    for part in ("ledger", "stats"):
        Storage(str(out)).remove_all([*Storage(str(out)).paths(part, "")])
    assert more("c.parquet")["slices_adopted"] > 0
    assert table_of(out).equals(before)
    more("c.parquet", truncated=True, relabel=True)
    assert table_of(out).column_names[-2:] == ["error", "truncated"]
    assert all(r.recipe["truncated"] for r in committed(Ledger(Storage(str(out)))))
    assert more("d.parquet")["slices_labelled"] == 1
