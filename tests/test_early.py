"""Rows that leave before the first layer may be answered where they are read, or by the engine: the
output is the same, and only what the model has to see travels to it."""

from dataclasses import replace

import numpy as np
import pytest
from support.models import tiny_fastbert, tiny_tokenizer, with_bag
from support.shards import write_shard
from support.stages import TEXTS, a_run

from fastbert.weights import save_checkpoint
from pipelines.input.shards import find_shards
from pipelines.input.slices import Slice
from pipelines.labelling.classify import Classify
from pipelines.labelling.read import ReadTokenize
from pipelines.labelling.work import IDS, Work, from_block, to_block
from pipelines.running.ray_executor import share_out
from pipelines.settings import LabelSettings

#: About half of the rows leave at the first exit.
RULES = {
    "paper": {"thresholds": [0.9, 0.5, 0.5]},
    "tempered": {
        "thresholds": [0.85, 0.6, 0.6],
        "criterion": "tempered-entropy",
        "temperatures": [0.8, 1.5, 0.6],
    },
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("early")
    save_checkpoint(with_bag(tiny_fastbert()), tiny_tokenizer(place), str(place / "model"))
    return str(place / "model")


@pytest.fixture
def shard(tmp_path):
    write_shard(tmp_path / "in" / "a.parquet", TEXTS)
    return find_shards([str(tmp_path / "in")])[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("audit_rate", [0.0, 0.4])
def test_both_places_give_the_same(shard, checkpoint, rule, audit_rate):
    plain = a_run(checkpoint, exit_depths=[0, 1, 2, 3], audit_rate=audit_rate, **RULES[rule])
    early = replace(plain, answer_early=True)
    read = [
        ReadTokenize(run)(Work(Slice(shard, len(TEXTS), 0, len(TEXTS)))) for run in (plain, early)
    ]
    late, soon = (
        Classify(run)(from_block(to_block(work)))
        for run, work in zip((plain, early), read, strict=True)
    )
    assert soon.table.schema == late.table.schema
    assert soon.table.drop_columns(["score", "uncertainty"]).equals(
        late.table.drop_columns(["score", "uncertainty"])
    )
    for name in ("score", "uncertainty"):
        columns = (np.array(work.table[name].to_pylist(), float) for work in (soon, late))
        np.testing.assert_allclose(*columns, atol=1e-6)
    timed = {"read_seconds": 0, "tokenize_seconds": 0, "device_seconds": 0}
    assert replace(soon.stats, **timed) == replace(late.stats, **timed)
    # What has left, and is not audited, has no tokens any more.
    travelled = np.array([bool(ids) for ids in read[1].table[IDS].to_pylist()])
    audited = np.array([label is not None for label in late.table["audit_label"].to_pylist()])
    layers = np.array(late.table["exit_layer"].to_pylist(), float)
    assert np.array_equal(travelled, (layers > 0) | audited)
    assert 5 < (layers == 0).sum() < 25
    assert bool(audit_rate) == ((layers == 0) & audited).any()


def test_a_slice_that_is_given_up_has_no_answer(shard, checkpoint):
    run = a_run(checkpoint, exit_depths=[0, 1, 2, 3], answer_early=True, **RULES["paper"])
    work = ReadTokenize(run)(Work(Slice(shard, len(TEXTS), 0, len(TEXTS))))
    found = Classify(run)(work, "given up")
    assert found.table["label"].null_count == len(TEXTS)
    assert found.stats.error_rows == len(TEXTS)


def test_readers_answer_where_a_gpu_is_spared():
    settings = LabelSettings(input=("x",), output="y", model="z", executor="ray")
    assert share_out(settings, {"CPU": 16.0, "GPU": 1.0}, [16]).answer_early
    assert not share_out(settings, {"CPU": 16.0}, [16]).answer_early
