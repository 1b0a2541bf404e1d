"""The three stages without Ray: a shard in, labelled rows and a record out."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.models import LAYERS
from support.records import committed, identity
from support.reference import all_exits, answer, gap_threshold
from support.same import assert_same_labels
from support.shards import random_texts, write_shard
from support.stages import MAX_LENGTH, TEXTS, a_run, run

from fastbert.errors import FastBertError
from fastbert.inference.cost import CostModel
from fastbert.inference.tokens import tokenize
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice, SliceReader
from pipelines.input.texts import decode
from pipelines.input.unreadable import ShardError
from pipelines.labelling.audit_rows import audit_rows
from pipelines.labelling.classify import Classify
from pipelines.labelling.commit import Commit
from pipelines.labelling.read import ReadTokenize
from pipelines.labelling.work import ERROR, IDS, TRUNCATED, Failed, Work, from_block, to_block
from pipelines.output.ledger import Ledger
from pipelines.output.schema import output_schema
from pipelines.output.statistics import SliceStats
from pipelines.output.storage import Storage

BAD = {0: "text is null", 21: "text is empty", 22: "text is empty"}


@pytest.fixture
def shard(tmp_path):
    write_shard(tmp_path / "in" / "dt=1" / "a.parquet", TEXTS, label=["x"] * len(TEXTS))
    return find_shards([str(tmp_path / "in")])[0]


def test_labels_equal_the_slow_reference(shard, checkpoint):
    model, tokenizer = load_model(Path(checkpoint)), load_tokenizer(Path(checkpoint))
    good = [i for i in range(len(TEXTS)) if i not in BAD]
    tokens = tokenize(tokenizer, [TEXTS[i] for i in good], None, MAX_LENGTH)
    probabilities = [all_exits(model, tokens, i) for i in range(len(good))]
    thresholds = [gap_threshold([p[[k]] for p in probabilities], 0.5) for k in range(LAYERS - 1)]
    table = run(shard, checkpoint, thresholds=thresholds, audit=0.5).table
    rows = table.to_pylist()
    cost = CostModel(model)
    assert {rows[i]["exit_layer"] for i in good} == {1, 2, 3}
    audited = audit_rows(shard.name, 0, len(TEXTS), 0.5)
    assert 5 < audited.sum() < 25
    for i, p, length in zip(good, probabilities, tokens.lengths, strict=True):
        expected = answer(p, thresholds)
        assert rows[i]["label"] == model.config.id2label[expected.label]
        assert rows[i]["exit_layer"] == expected.exit + 1
        assert rows[i]["score"] == pytest.approx(expected.score, abs=1e-5)
        assert rows[i]["uncertainty"] == pytest.approx(expected.uncertainty, abs=1e-5)
        assert rows[i]["tokens"] == length
        flops = cost.row_flops(np.array([length]), np.array([expected.exit]))
        assert rows[i]["flops"] == flops[0]
        full_depth = model.config.id2label[int(p[-1].argmax())]
        assert rows[i]["audit_label"] == (full_depth if audited[i] else None)
        assert rows[i]["error"] is None


def test_rows_without_text_keep_their_place_and_say_why(shard, checkpoint):
    rows = run(shard, checkpoint, audit=1.0).table.to_pylist()
    assert [row["id"] for row in rows] == list(range(len(TEXTS)))
    for i, row in enumerate(rows):
        assert row["error"] == BAD.get(i)
        if i in BAD:
            values = {name: row[name] for name in output_schema().names if name != "error"}
            assert set(values.values()) == {None}


def test_schema_is_carried_columns_then_ours(shard, checkpoint):
    schema = run(shard, checkpoint).table.schema
    assert schema.names == ["id", "input_label", *output_schema().names]
    for field in output_schema():
        assert schema.field(field.name).type == field.type


@pytest.mark.parametrize(("first", "rows"), [(0, 1), (0, 7), (5, 9), (6, 15), (30, 2), (0, 32)])
def test_a_slice_is_its_row_range(shard, checkpoint, first, rows):
    """Row groups have 7 rows: slices begin and end inside them."""
    whole = run(shard, checkpoint).table.slice(first, rows).to_pylist()
    part = run(shard, checkpoint, first, rows).table.to_pylist()
    assert [r["id"] for r in part] == list(range(first, first + rows))
    assert [(r["label"], r["exit_layer"]) for r in part] == [
        (r["label"], r["exit_layer"]) for r in whole
    ]


def test_an_empty_slice_and_a_slice_of_errors(tmp_path, checkpoint):
    write_shard(tmp_path / "in" / "none.parquet", [])
    write_shard(tmp_path / "in" / "nulls.parquet", [None, None])
    none, nulls = find_shards([str(tmp_path / "in")])
    assert run(none, checkpoint, 0, 0).table.num_rows == 0
    work = run(nulls, checkpoint, 0, 2)
    assert work.stats.error_rows == 2
    assert work.table["error"].to_pylist() == ["text is null"] * 2


def test_pairs_equal_the_slow_reference(tmp_path, checkpoint):
    first, second = random_texts(11, seed=5, longest=8), random_texts(11, seed=6, longest=8)
    second[4] = None
    write_shard(tmp_path / "in" / "p.parquet", first, other=pa.array(second, pa.string()))
    (shard,) = find_shards([str(tmp_path / "in")])
    this = a_run(checkpoint, pair_column="other", thresholds=[0.0, 0.0])
    rows = Classify(this)(ReadTokenize(this)(Work(Slice(shard, 11, 0, 11)))).table.to_pylist()
    assert rows.pop(4)["error"] == "text is null"
    del first[4], second[4]
    model, tokenizer = load_model(Path(checkpoint)), load_tokenizer(Path(checkpoint))
    tokens = tokenize(tokenizer, first, second, MAX_LENGTH)
    for i, row in enumerate(rows):
        last = all_exits(model, tokens, i)[-1]
        assert row["label"] == model.config.id2label[int(last.argmax())]
        assert row["score"] == pytest.approx(last.max(), abs=1e-5)


def test_text_that_is_not_utf8_costs_its_own_row_only():
    raw = pa.array([b"the red", b"\xff\xfe", b"river"], pa.binary())
    column = pa.chunked_array([pa.Array.from_buffers(pa.string(), 3, raw.buffers())])
    texts, errors = decode(column)
    assert texts == ["the red", "", "river"]
    assert errors[0] is errors[2] is None
    assert "not UTF-8" in errors[1]


def test_dictionary_columns_are_texts():
    column = pa.chunked_array([pa.array(["red", None, "red"]).dictionary_encode()])
    assert decode(column) == (["red", "", "red"], [None, "text is null", None])


def test_a_shard_that_lost_rows_is_a_failure(shard, checkpoint):
    work = run(shard, checkpoint, first=20, rows=20)
    assert isinstance(work, Failed)
    assert "changed while it was read" in work.reason


def test_a_shard_that_vanished_is_a_failure(shard):
    Path(shard.url.removeprefix("file://")).unlink()
    with pytest.raises(ShardError, match="cannot be read"):
        list(SliceReader(InputColumns()).read(Slice(shard, 32, 0, 32)))


def test_commit_writes_rows_then_record(shard, checkpoint, tmp_path):
    output = str(tmp_path / "out")
    commit = Commit(a_run(output=output, identity=identity(checkpoint="abc", criterion="margin")))
    work = run(shard, checkpoint, audit=1.0)
    record = commit(work)
    assert committed(Ledger(Storage(output))) == [record]
    path = tmp_path / "out" / "table" / "dt=1" / "a.000000000000.parquet"
    assert record.path == str(path.relative_to(tmp_path / "out"))
    assert pq.read_table(path, partitioning=None).equals(work.table)
    lineage = pq.read_metadata(path).metadata
    assert lineage[b"fastbert.source"].decode() == shard.url
    assert lineage[b"fastbert.checkpoint"] == b"abc"
    assert lineage[b"fastbert.thresholds"] == b"[0.5, 0.5]"
    assert record.rows == len(TEXTS) == sum(record.exits) + record.error_rows
    assert record.tokens == sum(record.exit_tokens)
    assert sum(record.exit_flops) == sum(filter(None, work.table["flops"].to_pylist()))
    assert record.audit_rows == len(TEXTS) - len(BAD)
    agree = sum(r["label"] == r["audit_label"] for r in work.table.to_pylist() if r["label"])
    assert record.audit_agreements == agree


def test_the_same_slice_twice_is_the_same_file(shard, checkpoint, tmp_path):
    """So a task that Ray runs again, or a second run after a crash, changes nothing."""
    data = []
    for name in ("one", "two"):
        commit = Commit(a_run(output=str(tmp_path / name), run_id=name))
        record = commit(run(shard, checkpoint))
        data.append((tmp_path / name / record.path).read_bytes())
    assert data[0] == data[1]


def test_audit_rows_are_a_fixed_share_of_the_shard():
    whole = audit_rows("a", 0, 20_000, 0.1)
    assert 0.09 < whole.mean() < 0.11
    assert np.array_equal(whole[700:900], audit_rows("a", 700, 200, 0.1))
    assert not np.array_equal(whole, audit_rows("b", 0, 20_000, 0.1))
    assert not audit_rows("a", 0, 1000, 0.0).any()
    assert audit_rows("a", 0, 1000, 1.0).all()


@given(st.integers(0, 3000), st.integers(0, 300), st.integers(0, 40), st.floats(0, 1))
def test_a_slice_cut_elsewhere_audits_the_same_rows(first, rows, before, rate):
    """Which rows depends on shard and row number only."""
    first += before
    wide = audit_rows("a", first - before, before + rows, rate)
    assert np.array_equal(wide[before:], audit_rows("a", first, rows, rate))


def test_work_survives_the_trip_between_processes(shard):
    piece = Slice(shard, 32, 0, 2)
    table = pa.table({"_ids": [[1, 2], [3]], "x": ["a", None]})
    work = Work(piece, table, SliceStats(read_seconds=0.5))
    back = from_block(to_block(work))
    assert asdict(back) | {"table": None} == asdict(work) | {"table": None}
    assert back.table.equals(table)
    assert from_block(to_block(Failed(piece, "gone"))) == Failed(piece, "gone")


def test_a_part_of_a_table_travels_without_the_rest(shard):
    table = pa.table({"x": ["a long text"] * 10_000})
    part = Work(Slice(shard, 10_000, 5, 2), table.slice(5, 2))
    assert to_block(part).nbytes < 3000
    assert from_block(to_block(part)).table.equals(table.slice(5, 2))


def test_a_replica_without_its_gpu_fails_loudly(checkpoint):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(FastBertError, match="given a GPU, but torch"):
        Classify(a_run(checkpoint), cuda=True)


def test_threads_change_the_last_digits_only(checkpoint):
    """And as many threads give the same bytes."""
    texts = pa.array(random_texts(300, seed=1))
    ids = load_tokenizer(Path(checkpoint))(texts.to_pylist())["input_ids"]
    piece = Slice(Shard("memory://x.parquet", "x", "v"), len(texts), 0, len(texts))
    rows = pa.table(
        {
            IDS: pa.array(ids, pa.large_list(pa.int32())),
            TRUNCATED: pa.nulls(len(texts), pa.bool_()),
            ERROR: pa.nulls(len(texts), pa.string()),
        }
    )

    def labelled(threads: int) -> pa.Table:
        return Classify(a_run(checkpoint), threads)(Work(piece, rows)).table

    before = torch.get_num_threads()
    try:
        one, again, two = labelled(1), labelled(1), labelled(2)
    finally:
        torch.set_num_threads(before)
    assert one.equals(again)
    assert_same_labels(two, one)
