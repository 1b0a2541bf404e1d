"""Records, and the statistics made from them."""

import json
from dataclasses import asdict, replace

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.records import committed, end_run, record

from pipelines.output.history import STATISTICS, encoded, statistics
from pipelines.output.ledger import Ledger
from pipelines.output.manifests import rows_of
from pipelines.output.record import Record, slice_id
from pipelines.output.storage import Storage


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(Storage(str(tmp_path)))


def commit(ledger: Ledger, *records: Record) -> None:
    for each in records:
        ledger.storage.put(each.path, b"rows")
        ledger.put(each)


def test_round_trip(ledger):
    commit(ledger, record("a"), record("b"), record("a", first_row=10))
    found = {(r.shard, r.first_row): r for r in committed(ledger)}
    assert found == {
        ("a", 0): record("a"),
        ("b", 0): record("b"),
        ("a", 10): record("a", first_row=10),
    }


@pytest.mark.parametrize("slices", [0, 1, 3, 10])
def test_statistics_are_the_same_some_slices_at_a_time(slices, monkeypatch):
    rows = rows_of(record("abc"[k % 3], first_row=10 * k, error_rows=k % 2) for k in range(slices))
    whole = statistics(rows)
    monkeypatch.setattr("pipelines.output.history._TOGETHER", 3)
    found = pq.read_table(pa.BufferReader(encoded(rows)))
    order = [(name, "ascending") for name in ("shard", "first_row", "exit_layer")]
    assert found.schema == STATISTICS
    assert found.sort_by(order).equals(whole.sort_by(order))


def test_slice_ids_are_stable_and_distinct():
    assert slice_id("a", 0) == slice_id("a", 0)
    assert len({slice_id("a", 0), slice_id("a", 1), slice_id("a0", 0), slice_id("b", 0)}) == 4


def test_a_record_without_rows_does_not_count(ledger):
    commit(ledger, record("a"), record("b"))
    ledger.storage.remove(record("a").path)
    assert [r.shard for r in committed(ledger)] == ["b"]


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_garbage_counts_as_absent(ledger, garbage):
    commit(ledger, record("a"), record("b"))
    ledger.storage.put(f"ledger/slices/{record('a').slice_id}.json", garbage)
    assert [r.shard for r in committed(ledger)] == ["b"]


def test_rows_without_a_record_are_strays(ledger):
    commit(ledger, record("a"), record("b.7", first_row=3))
    ledger.storage.put("table/c.000000000005.parquet", b"rows")
    ledger.storage.put("table/notes.parquet", b"not ours")
    ledger.storage.put(f"ledger/slices/{record('a').slice_id}.json", b"garbage")
    assert ledger.committed().stray == {
        "table/a.000000000000.parquet": "a",
        "table/c.000000000005.parquet": "c",
    }
    ledger.sweep(["table/c.000000000005.parquet"])
    assert list(ledger.committed().stray) == ["table/a.000000000000.parquet"]


def test_records_of_earlier_versions_are_read(ledger):
    commit(ledger, record("a"))
    old = asdict(record("a"))
    for name in ("retries", "quarantined", "errors", "exit_labels", "exit_uncertainties",
                 "exit_audit_rows", "exit_audit_agreements"):  # fmt: skip
        del old[name]
    ledger.storage.put(f"ledger/slices/{record('a').slice_id}.json", json.dumps(old).encode())
    assert committed(ledger) == [record("a")]


def test_forget(ledger):
    commit(ledger, record("a"), record("b"))
    ledger.forget(ledger.committed().commits.slice(0, 1))
    assert [r.shard for r in committed(ledger)] == ["b"]
    assert ledger.storage.paths("table", "") == {record("b").path}


def test_statistics_add_up():
    records = [record("a"), record("b", rows=9, error_rows=0)]
    table = statistics(rows_of(records))
    assert table.num_rows == 3 + 1 + 3
    connection = duckdb.connect()
    connection.register("stats", table)
    total = connection.sql("select sum(rows), sum(tokens), sum(flops) from stats").fetchall()[0]
    assert total == (19, 180, 2 * 1400)
    a = table.filter([s == "a" for s in table["shard"].to_pylist()])
    assert a["exit_layer"].to_pylist() == [1, 2, 3, None]
    assert a["rows"].to_pylist() == [5, 3, 1, 1]
    assert set(a["slice_full_flops"].to_pylist()) == {2700}
    assert set(a["slice_rows"].to_pylist()) == {10}
    unknown = {name for name in table.column_names if table[name].null_count}
    assert unknown == {
        *("exit_layer", "labels", "uncertainties", "audit_rows", "audit_agreements", "errors"),
        *("answers", "agreements"),
    }


def test_statistics_of_a_killed_run_are_written_by_the_next(ledger):
    old, new = record("a", run_id="killed"), record("b", run_id="second")
    commit(ledger, old)
    commits = ledger.committed().commits
    assert ledger.unreported(commits) == {"killed"}
    commit(ledger, new)
    ledger.close_run("second", {"rows": 10}, commits, rows_of([new]), {"killed"})
    assert ledger.storage.paths("stats", "") == {"stats/killed.parquet", "stats/second.parquet"}
    assert ledger.storage.paths("ledger/runs", "") == {"ledger/runs/second.json"}
    assert ledger.unreported(ledger.committed().commits) == set()
    assert shards(ledger, "killed") == {"a"}
    assert shards(ledger, "second") == {"b"}


def test_a_run_id_used_again_loses_no_statistics(ledger):
    """Also where the first run's records are in a manifest."""
    first, second = record("a", run_id="nightly"), record("b", run_id="nightly")
    commit(ledger, first)
    end_run(ledger, "nightly", [first])
    commit(ledger, second)
    end_run(ledger, "nightly", [second])
    assert shards(ledger, "nightly") == {"a", "b"}


def test_a_run_id_used_again_by_a_run_that_is_killed(ledger):
    first = record("a", run_id="nightly", exits=[5, 3, 1])
    commit(ledger, first)
    end_run(ledger, "nightly", [first])
    ledger.reopen("nightly")
    commit(ledger, record("a", run_id="nightly", exits=[0, 0, 9]))
    assert ledger.unreported(ledger.committed().commits) == {"nightly"}


def test_closing_a_run_reads_nothing_again(ledger, monkeypatch):
    commit(ledger, record("a", run_id="killed"))
    commits = ledger.committed().commits
    monkeypatch.setattr(ledger.storage, "_read", lambda _: pytest.fail("read the ledger again"))
    ledger.close_run("night-1", {}, commits, rows_of([record("b")]), {"killed"})
    ledger.fold(rows_of([record("b")]))


def shards(ledger: Ledger, run: str) -> set[str]:
    data = ledger.storage.read([f"stats/{run}.parquet"])[f"stats/{run}.parquet"]
    return set(pq.read_table(pa.BufferReader(data))["shard"].to_pylist())


def test_records_have_plain_fields_only():
    assert Record(**asdict(record())) == record()
    assert replace(record(), rows=3) != record()
