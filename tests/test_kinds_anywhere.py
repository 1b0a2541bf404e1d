"""Questions of every kind on both executors, night after night, and in a pipeline of one's own."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import ROOT
from support.labelling import settings, table_of
from support.models import (
    save_checkpoint_of_questions,
    tiny_classifier,
    tiny_fastbert,
    tiny_tokenizer,
    with_bag,
)
from support.shards import WORDS, random_texts, write_shard

from fastbert.weights import save_checkpoint
from pipelines.labelling.job import label
from pipelines.running.local import LocalExecutor
from pipelines.running.ray_executor import RayExecutor

pytestmark = pytest.mark.integration


def files(output: Path) -> dict[str, bytes]:
    table = output / "table"
    return {str(path.relative_to(table)): path.read_bytes() for path in table.rglob("*.parquet")}


def test_both_executors_write_the_same_and_nights_add_up(tmp_path):
    """The second night brings a shard, and changes one."""
    save_checkpoint_of_questions(tmp_path / "model")
    outputs = {"local": LocalExecutor, "ray": RayExecutor}
    for night in range(2):
        write_shard(tmp_path / "in" / f"{night}.parquet", random_texts(25, seed=night))
        if night == 1:
            write_shard(tmp_path / "in" / "0.parquet", random_texts(25, seed=9))
        for name, executor in outputs.items():
            asked = settings(tmp_path / "in", tmp_path / name, str(tmp_path / "model"),
                             audit_rate=0.5, all_scores=True)  # fmt: skip
            summary = label(asked, executor())
            assert summary["exit_code"] == 0
            assert summary["rows"] == (50 if night == 1 else 25)
            found = {each["question"]: each for each in summary["question_audits"]}
            assert found.keys() == {"animal", "tags", "grade"}
            assert sum(map(len, summary["answers"])) >= 3
    assert files(tmp_path / "local").keys() == files(tmp_path / "ray").keys()
    local, ray = (table_of(tmp_path / name) for name in outputs)
    assert local.num_rows == 50
    assert local.equals(ray)
    assert len({*local["exit_layer"].to_pylist()}) > 1


class SparesTheModel(RayExecutor):
    """As with GPUs: readers answer what they can."""

    def resources(self, settings):
        return replace(super().resources(settings), answer_early=True)


def test_readers_answer_texts_of_several_windows(tmp_path):
    """What they have answered travels without tokens, unless it is audited."""
    model = with_bag(tiny_fastbert())
    model.config.max_length, model.config.windows = 10, {"most": 4}
    save_checkpoint(model, tiny_tokenizer(tmp_path), str(tmp_path / "model"))
    for k in range(3):
        texts = [*random_texts(20, seed=k, longest=30), None, ""]
        write_shard(tmp_path / "in" / f"{k}.parquet", texts)
    found = {}
    for name, executor in (("here", LocalExecutor), ("there", SparesTheModel)):
        asked = settings(tmp_path / "in", tmp_path / name, str(tmp_path / "model"), speed=0.9,
                         exits="0-", audit_rate=0.3)  # fmt: skip
        summary = label(asked, executor())
        assert 0 < summary["exits"][0] < 60
        found[name] = table_of(tmp_path / name), summary["audit_agreement"], summary["tokens"]
    (here, *said), (there, *again) = found.values()
    assert said == again
    assert {*here["windows"].drop_null().to_pylist()} == {1, 2, 3, 4}
    floats = ["score", "uncertainty"]
    for name in floats:
        mine, theirs = (table[name].drop_null().to_numpy() for table in (here, there))
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert here.drop_columns(floats).equals(there.drop_columns(floats))


def test_the_curation_pipeline(tmp_path):
    tiny_classifier().base_model.save_pretrained(tmp_path / "backbone")
    tiny_tokenizer(tmp_path).save_pretrained(tmp_path / "backbone")

    def rows(count: int, seed: int) -> dict:
        texts = random_texts(count, seed=seed, longest=6)
        good = [3.9 if WORDS[0] in text.split() else 1.2 for text in texts]
        domain = ["arts" if WORDS[1] in text.split() else "law" for text in texts]
        return {"text": texts, "quality": good, "domain": domain}

    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table(rows(900, 1)), tmp_path / "labelled.parquet")
    corpus = rows(2500, 2)
    pq.write_table(pa.table({"text": corpus["text"]}), tmp_path / "corpus" / "a.parquet")
    learn = ["--backbone", tmp_path / "backbone", "--epochs", 8, "--learning-rate", 3e-3,
             "--distil-epochs", 4, "--batch-size", 16, "--max-length", 16]  # fmt: skip
    command = [ROOT / "deploy" / "curation.sh", tmp_path / "labelled.parquet",
               tmp_path / "corpus", tmp_path / "work", *learn]  # fmt: skip
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True,
                         env=os.environ | {"PATH": path})  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    kept = pq.read_table(tmp_path / "work" / "kept" / "a.parquet")
    assert kept.column_names == ["text", "quality_value"]
    truth = dict(zip(corpus["text"], corpus["quality"], strict=True))
    assert np.mean([truth[text] >= 3 for text in kept["text"].to_pylist()]) > 0.9
    labels = table_of(tmp_path / "work" / "labels")
    assert labels.num_rows == 2500
    assert "text" not in labels.column_names
    assert kept.num_rows == sum(value >= 3 for value in labels["quality_value"].to_pylist())
