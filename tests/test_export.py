"""The exported Delta table: at every moment the rows of `table/`, and none of them twice."""

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import time, timedelta
from decimal import Decimal
from itertools import count
from threading import Barrier

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from support.records import record

from fastbert.errors import FastBertError, InputError
from jobs.export import main
from pipelines.export import delta
from pipelines.export import rows as export_rows
from pipelines.export.delta import Delta
from pipelines.export.job import export
from pipelines.export.rows import LINEAGE, OutputChanged
from pipelines.output.ledger import Ledger, Record, table_path
from pipelines.output.lock import LOCK
from pipelines.output.storage import Storage
from pipelines.settings import ExportSettings

#: Rows per slice, unless a test says otherwise.
ROWS = 7


class Output:
    """A labelled output without labelling: what a run would leave, at once."""

    def __init__(self, folder) -> None:
        self.url, self.delta = str(folder / "labels"), str(folder / "delta")
        self.ledger = Ledger(Storage(self.url))
        self.runs = 0

    def label(self, *slices, run=None, ended=True, rows=ROWS, **columns) -> list[Record]:
        """Commit slices, (shard, first row), as a run does; killed before its end unless `ended`.

        Labels differ from run to run. `columns` are carried ones: functions of the row.
        """
        self.runs += 1
        run = run or f"run-{self.runs}"
        columns = columns or {"id": int}
        made = []
        for shard, first in slices:
            place = range(first, first + rows)
            table = pa.table(
                {name: column if isinstance(column, pa.Array) else [column(i) for i in place]
                 for name, column in columns.items()}
                | {"label": [f"{shard}-{i}-{self.runs}" for i in place],
                   "score": pa.array(np.linspace(0, 1, rows), pa.float32())}
            )  # fmt: skip
            one = record(shard, first, rows, run_id=run, committed_at=self.now())
            self.ledger.withdraw(one)
            buffer = pa.BufferOutputStream()
            pq.write_table(table, buffer)
            self.ledger.storage.put(one.path, buffer.getvalue().to_pybytes())
            self.ledger.put(one)
            made.append(one)
        if ended:
            self.end(run)
        return made

    def now(self) -> str:
        return f"2026-11-22T01:{self.runs:02d}:03+00:00"

    def end(self, run: str) -> None:
        records = self.ledger.committed().records
        self.ledger.close_run(run, {"run_id": run}, records, self.ledger.unreported(records))

    def prune(self, *shards: str) -> None:
        self.runs += 1
        for each in self.ledger.committed().records:
            if each.shard in shards:
                self.ledger.forget(each)
        self.end(f"run-{self.runs}")

    def export(self, **changes) -> dict:
        return export(ExportSettings(**{"output": self.url, "delta": self.delta} | changes))

    def truth(self) -> Counter:
        """The rows of `table/`, read as anybody would, from wherever they are."""
        found = Counter()
        for path in self.ledger.storage.paths("table", ".parquet"):
            shard, first, _ = path.removeprefix("table/").rsplit(".", 2)
            for place, row in enumerate(pq.read_table(f"{self.url}/{path}").to_pylist()):
                found[as_key(row | {"shard": shard, "row": int(first) + place})] += 1
        return found

    def exported(self, version=None) -> Counter:
        table = DeltaTable(self.delta, version=version).to_pyarrow_table()
        left_out = {"slice_id", "run_id", "committed_at"}
        return Counter(
            as_key({k: v for k, v in row.items() if k not in left_out}) for row in table.to_pylist()
        )

    def history(self) -> list[str | None]:
        """The run of each version, but the one that creates the table."""
        commits = sorted(DeltaTable(self.delta).history(), key=lambda commit: commit["version"])
        return [commit.get("run_id") for commit in commits[1:]]


def as_key(row: dict) -> frozenset:
    """A row; a column that its shard does not have is as good as null."""
    return frozenset((name, value) for name, value in row.items() if value is not None)


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(tmp_path)


def check(output: Output, *runs: str | None) -> None:
    """The table equals the output, and each of the runs was one transaction."""
    assert output.exported() == output.truth()
    assert output.history() == list(runs)


def test_runs_are_exported_one_by_one_and_once(output, caplog):
    output.label(("a", 0), ("a", 7), ("dt=1/b", 0))
    with caplog.at_level("INFO"):
        summary = output.export()
    assert "21 of 21 rows" in caplog.text
    check(output, "run-1")
    assert (summary["runs"], summary["rows_added"], summary["slices_added"]) == (["run-1"], 21, 3)
    output.label(("c", 0))
    output.export()
    check(output, "run-1", "run-2")
    assert output.export() == summary | {
        "version": 2, "runs": [], "rows_added": 0, "slices_added": 0,
    }  # fmt: skip
    check(output, "run-1", "run-2")


def test_rows_say_where_they_are_from(output):
    (one, _) = output.label(("a", 7), ("b", 0))
    output.export()
    rows = DeltaTable(output.delta).to_pyarrow_table().filter(ds.field("shard") == "a")
    assert rows["row"].to_pylist() == list(range(7, 14)) == rows["id"].to_pylist()
    assert set(rows["slice_id"].to_pylist()) == {one.slice_id}
    assert set(rows["run_id"].to_pylist()) == {"run-1"}
    assert set(rows["committed_at"].to_pylist()) == {one.committed_at}


def test_a_relabelled_slice_replaces_its_rows(output):
    output.label(("a", 0), ("a", 7), ("b", 0))
    output.export()
    output.label(("a", 7), ("b", 0))
    assert output.export()["slices_removed"] == 2
    check(output, "run-1", "run-2")


def test_late_runs_are_exported_in_the_order_of_time(output):
    """The first run's `a` exists no longer, and names of runs do not sort like their times."""
    output.label(("a", 0), ("b", 0), run="z")
    output.label(("a", 0), ("c", 0), run="y")
    output.label(("c", 0), run="x")
    output.export()
    check(output, "z", "y", "x")
    assert {dict(row)["shard"] for row in output.exported(version=1)} == {"b"}
    assert {dict(row)["shard"] for row in output.exported(version=2)} == {"a", "b"}


def test_a_run_with_nothing_left_is_no_transaction(output):
    output.label(("a", 0))
    output.label(("a", 0))
    output.export()
    check(output, "run-2")


def test_a_run_id_can_be_used_again(output):
    output.label(("a", 0), ("b", 0), run="nightly")
    output.export()
    output.label(("a", 0), ("c", 0), run="nightly")
    output.export()
    check(output, "nightly", "nightly")


def test_pruned_slices_are_removed(output):
    output.label(("a", 0), ("b", 0))
    output.export()
    output.prune("a")
    assert output.export()["slices_removed"] == 1
    check(output, "run-1", None)
    output.prune("b")
    output.export()
    check(output, "run-1", None, None)
    assert not output.exported()


def test_pruned_slices_go_with_the_next_run(output):
    output.label(("a", 0), ("b", 0))
    output.export()
    output.prune("a")
    output.label(("c", 0))
    output.export()
    check(output, "run-1", "run-3")


def test_a_shard_that_is_cut_otherwise_is_replaced(output):
    """Slices [0, 7) and [7, 14) by [0, 9) and [9, 18); a third, [20, 27), is gone."""
    old = output.label(("a", 0), ("a", 7), ("a", 20))
    output.export()
    for each in old:
        output.ledger.forget(each)
    output.label(("a", 0), ("a", 9), rows=9)
    output.export()
    check(output, "run-1", "run-2")


def test_a_shard_that_has_no_rows_any_more(output):
    output.label(("a", 0), ("b", 0))
    output.export()
    output.label(("a", 0), rows=0)
    output.export()
    check(output, "run-1", None)
    assert output.export()["runs"] == []


def test_no_version_has_a_row_twice(output):
    """Two late runs have cut a shard otherwise; the first of them alone must not overlap."""
    old = output.label(("a", 0), ("a", 7))
    output.export()
    output.ledger.forget(old[0])
    output.label(("a", 10), rows=4)
    output.label(("a", 7), rows=3)
    output.label(("a", 0))
    output.export()
    check(output, "run-1", "run-2", "run-3", "run-4")
    for version in range(1, 5):
        places = [dict(row)["row"] for row in output.exported(version).elements()]
        assert len(set(places)) == len(places)


def test_a_run_that_has_not_ended_is_not_exported(output):
    output.label(("a", 0), ("b", 0), ("c", 0))
    output.export()
    before = output.exported()
    # Killed: it has replaced `a`, withdrawn `b` and removed `c`.
    output.label(("a", 0), ended=False)
    records = {r.shard: r for r in output.ledger.committed().records}
    output.ledger.withdraw(records["b"])
    output.ledger.forget(records["c"])
    assert output.export()["unfinished_run"] is True
    assert output.exported() == before
    output.label(("b", 0), ("c", 0))  # goes on, and ends both
    assert output.export()["unfinished_run"] is False
    check(output, "run-1", "run-2", "run-3")


@pytest.mark.parametrize("what", ["lock", "stray"])
def test_what_a_run_at_work_has_removed_stays(output, what):
    (old,) = output.label(("a", 0))
    output.export()
    before = output.exported()
    output.ledger.withdraw(old)
    if what == "lock":  # all of it was removed, and nothing is committed yet
        output.ledger.storage.remove(old.path)
        output.ledger.storage.put(LOCK, b"{}")
    output.export()
    assert output.exported() == before
    output.ledger.storage.remove(LOCK)
    output.ledger.storage.remove(old.path)
    output.export()
    assert not output.exported()


def test_columns_may_be_added_and_missing(output):
    output.label(("a", 0), id=int)
    output.export()
    output.label(("b", 0), id=int, language=lambda i: f"l{i}", nothing=lambda i: None)
    output.label(("c", 0), language=lambda i: "de")
    output.export()
    check(output, "run-1", "run-2", "run-3")
    assert "nothing" not in DeltaTable(output.delta).to_pyarrow_table().column_names


def test_a_list_without_any_element_takes_the_type_of_the_others(output):
    output.label(("a", 0), rows=1, column=pa.array([[]], pa.list_(pa.null())))
    output.label(("b", 0), rows=1, column=pa.array([[3]], pa.list_(pa.uint8())))
    output.label(("c", 0), rows=1, column=pa.array([None], pa.list_(pa.null())))
    output.export()
    output.label(("d", 0), rows=1, column=pa.array([[]], pa.list_(pa.null())))
    output.export()
    table = DeltaTable(output.delta).to_pyarrow_table().sort_by("shard")
    assert table["column"].to_pylist() == [[], [3], None, []]


def test_late_runs_of_other_types_share_the_widest(output):
    output.label(("a", 0), id=int)
    output.label(("b", 0), id=float)
    output.export()
    check(output, "run-1", "run-2")


def test_columns_named_like_the_lineage_are_renamed(output):
    output.label(("a", 0), shard=lambda i: f"carried {i}")
    output.export()
    rows = DeltaTable(output.delta).to_pyarrow_table().to_pylist()
    assert {row["input_shard"] for row in rows} == {f"carried {i}" for i in range(ROWS)}
    assert {row["shard"] for row in rows} == {"a"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        (pa.array([255], pa.uint8()), 255),
        (pa.array([[65535]], pa.list_(pa.uint16())), [65535]),
        (pa.array([{"a": 2**32 - 1}], pa.struct([("a", pa.uint32())])), {"a": 2**32 - 1}),
        (pa.array([np.float16(1.5)], pa.float16()), 1.5),
        (pa.array([time(1, 2, 3)], pa.time64("us")), "01:02:03.000000"),
        (pa.array([timedelta(seconds=2)], pa.duration("s")), 2),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float16(), 2)), [1.0, 2.0]),
        (pa.array([[("k", 3)]], pa.map_(pa.string(), pa.uint8())), [("k", 3)]),
        (pa.array([b"ab"], pa.binary(2)), b"ab"),
        (pa.array([b"0123456789abcdef"], pa.uuid()), b"0123456789abcdef"),
        (pa.array([Decimal("1.50")], pa.decimal32(5, 2)), Decimal("1.50")),
        (pa.array([Decimal("1.50")], pa.decimal256(50, 2)), "1.50"),
        (pa.array([[]], pa.list_(pa.null())), []),
    ],
    ids=lambda value: str(getattr(value, "type", "")) or None,
)
def test_types_that_delta_does_not_have(output, values, expected):
    output.label(("a", 0), rows=1, column=values)
    output.export()
    output.label(("b", 0), rows=1, column=values)
    output.export()
    table = DeltaTable(output.delta).to_pyarrow_table()
    assert table["column"].to_pylist() == [expected] * 2
    assert "element: null" not in str(table.schema)


def test_nanoseconds_become_microseconds(output):
    output.label(("a", 0), rows=1, at=pa.array([1_234_567], pa.timestamp("ns", "Europe/Berlin")))
    output.export()
    found = DeltaTable(output.delta).to_pyarrow_table()["at"]
    assert found.type == pa.timestamp("us", "UTC")
    assert found.cast(pa.int64()).to_pylist() == [1234]


def test_a_column_that_would_lose_values_is_refused(output):
    output.label(("a", 0), rows=1, n=pa.array([1], pa.int32()))
    output.export()
    output.label(("b", 0), rows=1, n=pa.array([2**40], pa.int64()))
    with pytest.raises(InputError, match=r"'n' is int64 in the output, and int32.*another table"):
        output.export()
    assert output.history() == ["run-1"]
    output.export(delta=output.delta + "2")  # as the message says
    output.delta += "2"
    check(output, "run-1", "run-2")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([{"x": int}, {"x": str}], "int64 vs string"),
        ([{"x": int}, {"X": int}], "x, X differ in case only"),
    ],
)
def test_columns_that_no_table_can_have_are_refused(output, columns, message):
    for place, each in enumerate(columns):
        output.label((f"s{place}", 0), **each)
    with pytest.raises(InputError, match=message):
        output.export()
    assert not DeltaTable.is_deltatable(output.delta)


class Killed(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (Ledger, "committed"),
        (Storage, "read"),
        (Ledger, "records"),
        (Delta, "held"),
        (Delta, "_create"),
        (Delta, "_write"),
        (delta, "write_deltalake"),
        (export_rows, "_schema"),
        (export_rows, "_cast"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("after", [False, True])
def test_an_export_that_was_killed_is_done_by_the_next(output, monkeypatch, where, name, after):
    """Each step fails in turn, before or after it was done, at its every call."""
    output.label(("a", 0), ("b", 0), ("d", 0))
    output.label(("a", 0), ("c", 0))
    original = getattr(where, name)
    for call in range(1, 30):
        monkeypatch.setattr(where, name, failing(original, call, after))
        try:
            output.export()
            break
        except Killed:
            pass
        finally:
            monkeypatch.setattr(where, name, original)
        if DeltaTable.is_deltatable(output.delta):  # whole runs, or nothing
            assert sum(output.exported().values()) in (0, 2 * ROWS, 4 * ROWS)
    assert call > 1
    output.export()
    check(output, "run-1", "run-2")


def failing(original, call: int, after: bool):
    """`original`, but its n-th call raises."""
    calls = count(1)

    def wrapped(*arguments, **named):
        mine = next(calls)
        if mine == call and not after:
            raise Killed
        result = original(*arguments, **named)
        if mine == call:
            raise Killed
        return result

    return wrapped


@pytest.mark.parametrize("relabel", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_two_exports_at_once(output, monkeypatch, exists, relabel):
    """The second one begins and ends while the first one writes."""
    output.label(("a", 0), ("b", 0))
    if exists:
        output.export()
    if relabel:
        output.label(("a", 0), ("c", 0))
    output.label(("d", 0))
    others = []
    original = Storage.read

    def read(self, paths):
        if paths[0].startswith("table/") and not others:
            others.append({})
            with ThreadPoolExecutor() as pool:  # Delta's own thread cannot begin another export
                others[0] = pool.submit(output.export).result()
        return original(self, paths)

    monkeypatch.setattr(Storage, "read", read)
    mine = output.export()
    runs = [f"run-{i}" for i in range(1, output.runs + 1)]
    check(output, *runs)
    assert others[0]["runs"] == runs[exists:]
    assert mine["runs"] == []


def test_an_export_does_not_undo_what_a_later_one_has_done(output, monkeypatch):
    """Between its two transactions another run ends, and another export adds and removes slices."""
    output.label(("a", 0), ("b", 0))
    output.label(("c", 0))
    original = Delta._write

    def write(*arguments):
        original(*arguments)
        monkeypatch.setattr(Delta, "_write", original)
        output.prune("b")
        output.label(("d", 0), ("a", 0))
        output.export()

    monkeypatch.setattr(Delta, "_write", write)
    assert output.export()["runs"] == ["run-1"]
    check(output, "run-1", "run-2", "run-4")


def test_two_exports_that_create_the_table_at_once(output, monkeypatch):
    output.label(("a", 0))
    original = Delta._create

    def create(self, schema):
        monkeypatch.setattr(Delta, "_create", original)
        output.export()
        return original(self, schema)

    monkeypatch.setattr(Delta, "_create", create)
    assert output.export()["runs"] == []
    check(output, "run-1")


def test_of_two_that_create_the_table_one_does(tmp_path):
    for place in range(8):
        table, together = Delta(str(tmp_path / str(place)), "o"), Barrier(2)

        def create(_, table=table, together=together):
            together.wait()
            with suppress(DeltaError):
                return table._create(LINEAGE)

        with ThreadPoolExecutor() as pool:
            assert len([made for made in pool.map(create, range(2)) if made]) == 1


def test_a_writer_that_is_always_faster_ends_the_export(output, monkeypatch):
    output.label(("a", 0))
    output.export()
    output.label(("a", 0))
    original = delta.write_deltalake

    def write(table, *arguments, **named):
        DeltaTable(output.delta).alter.set_table_description(f"after {table.version()}")
        original(table, *arguments, **named)

    monkeypatch.setattr(delta, "write_deltalake", write)
    with pytest.raises(FastBertError, match="other writers changed .* export again"):
        output.export()


def test_compaction_and_restored_versions_do_no_harm(output):
    output.label(("a", 0), ("b", 0))
    output.export()
    output.label(("c", 0), ("a", 0))
    output.export()
    DeltaTable(output.delta).optimize.compact()
    assert output.export()["runs"] == []
    assert output.exported() == output.truth()
    DeltaTable(output.delta).restore(1)
    assert output.export()["runs"] == ["run-2"]
    assert output.exported() == output.truth()


def test_rows_of_somebody_else_are_left_alone(output):
    output.label(("a", 0))
    output.export()
    write_deltalake(output.delta, pa.table({"label": ["mine"]}), mode="append", schema_mode="merge")
    output.label(("a", 0))
    assert output.export()["runs"] == ["run-2"]
    assert output.exported() - output.truth() == Counter([as_key({"label": "mine"})])


def test_rows_deleted_by_hand_stay_deleted(output):
    """As those of a person who wants to be forgotten."""
    output.label(("a", 0), ("b", 0))
    output.export()
    DeltaTable(output.delta).delete("shard = 'a' and row < 3")
    assert output.export()["slices_added"] == 0
    output.label(("c", 0))
    output.export()
    lost = [dict(row) for row in output.truth() - output.exported()]
    assert sorted((row["shard"], row["row"]) for row in lost) == [("a", 0), ("a", 1), ("a", 2)]


@pytest.mark.parametrize("when", ["before", "between", "gone"])
def test_slices_relabelled_meanwhile_are_not_exported(output, monkeypatch, when):
    """A run replaces `b` before its rows are read, or when they were but `c` was not yet."""
    output.label(("a", 0), ("b", 0), ("c", 0))
    original = Storage.read
    trigger = {"before": "table/b.", "between": "table/c.", "gone": "table/b."}[when]
    started = []

    def read(self, paths):
        if paths[0].startswith(trigger) and not started:
            started.append(True)
            if when == "gone":
                output.ledger.forget(output.ledger.records([table_path("b", 0)])[0])
            else:
                output.label(("b", 0), ended=False)
        return original(self, paths)

    monkeypatch.setattr(Storage, "read", read)
    with pytest.raises(OutputChanged, match="export again"):
        output.export()
    assert output.history() == []
    output.label(("b", 0))
    output.export()
    assert output.exported() == output.truth()


def test_a_file_that_is_not_its_record_s_is_not_exported(output):
    (one, _) = output.label(("a", 0), ("b", 0))
    output.ledger.put(replace(one, rows=ROWS - 1))
    with pytest.raises(OutputChanged, match=r"table/a.* is not what the ledger said"):
        output.export()
    assert output.history() == []


def test_a_slice_at_a_time_is_in_memory(output, monkeypatch):
    """Rows are read when they are written, not before."""
    output.label(*[("a", first) for first in range(0, 70, 7)])
    events = []
    read, write = Storage.read, delta.write_deltalake

    def reading(self, paths):
        events.extend("read" for path in paths if path.startswith("table/"))
        return read(self, paths)

    def writing(table, rows, **named):
        def spied():
            for batch in rows:
                events.append("write")
                yield batch

        write(table, pa.RecordBatchReader.from_batches(rows.schema, spied()), **named)

    monkeypatch.setattr(Storage, "read", reading)
    monkeypatch.setattr(delta, "write_deltalake", writing)
    output.export()
    assert events == ["read", "write"] * 10


def test_a_table_of_another_output_is_left_alone(output, tmp_path):
    output.label(("a", 0))
    output.export()
    other = Output(tmp_path / "other")
    other.label(("a", 0))
    with pytest.raises(InputError, match=r"is of file://.*labels, expected file://.*other/labels"):
        other.export(delta=output.delta)
    write_deltalake(other.delta, pa.table({"x": [1]}))
    with pytest.raises(InputError, match="is of somebody else"):
        other.export()
    assert DeltaTable(other.delta).to_pyarrow_table().to_pylist() == [{"x": 1}]
    check(output, "run-1")


def test_wrong_places(output, tmp_path):
    with pytest.raises(InputError, match="no run has ended at .* expected the --output"):
        output.export()
    output.label(("a", 0), ended=False)
    with pytest.raises(InputError, match="no run has ended"):
        output.export()
    with pytest.raises(InputError, match="lies inside --output"):
        output.export(delta=f"{output.url}/delta")
    output.end("run-1")
    with pytest.raises(InputError, match="cannot open the Delta table nowhere://x"):
        output.export(delta="nowhere://x")


def test_the_command(output):
    output.label(("a", 0))
    result = CliRunner().invoke(main, ["--output", output.url, "--delta", output.delta])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["runs"] == ["run-1"]
    result = CliRunner().invoke(main, ["--output", output.url + "x", "--delta", output.delta])
    assert result.exit_code == 2
    assert "no run has ended" in result.stderr


def test_without_the_package_the_extra_is_named(output, monkeypatch):
    output.label(("a", 0))
    monkeypatch.delitem(sys.modules, "pipelines.export.delta")
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(InputError, match=r"pip install 'fastbert-ray\[delta\]'"):
        output.export()
