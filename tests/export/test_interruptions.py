"""Exports that are killed, meet each other, or a run at work."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier

import pytest
from deltalake.exceptions import DeltaError
from pyiceberg.table import Transaction
from support.records import committed

from export.killed import Killed, failing
from export.output import ROWS, check
from fastbert.errors import FastBertError
from pipelines.export import delta
from pipelines.export import rows as export_rows
from pipelines.export.delta import Delta
from pipelines.export.iceberg import Iceberg
from pipelines.export.rows import LINEAGE, OutputChanged
from pipelines.output.ledger import Ledger
from pipelines.output.lock import LOCK
from pipelines.output.storage import Storage


@pytest.mark.parametrize("what", ["lock", "stray"])
def test_what_a_run_at_work_has_removed_stays(output, what):
    (old,) = output.label(("a", 0))
    output.export()
    before = output.exported()
    output.withdraw(old)
    if what == "lock":  # all of it was removed, and nothing is committed yet
        output.ledger.storage.remove(old.path)
        output.ledger.storage.put(LOCK, b"{}")
    output.export()
    assert output.exported() == before
    output.ledger.storage.remove(LOCK)
    output.ledger.storage.remove(old.path)
    output.export()
    assert not output.exported()


#: What may be cut off, by the format of the table.
STEPS = {
    "delta": [(Delta, "held"), (Delta, "_create"), (Delta, "_write"), (delta, "write_deltalake")],
    "iceberg": [
        (Iceberg, "held"),
        (Iceberg, "_create"),
        (Iceberg, "_write"),
        (Transaction, "append"),
        (Transaction, "commit_transaction"),
    ],
}
BOTH = [(Ledger, "committed"), (Storage, "read"), (Ledger, "recorded"), (export_rows, "_schema"),
        (export_rows, "_cast")]  # fmt: skip


@pytest.mark.parametrize(
    ("format", "where", "name"),
    [(format, *step) for format, steps in STEPS.items() for step in [*BOTH, *steps]],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("after", [False, True])
def test_an_export_that_was_killed_is_done_by_the_next(
    request, monkeypatch, format, where, name, after
):
    """Each step fails in turn, before or after it was done, at its every call."""
    output = request.getfixturevalue(format)
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
        if output.exists():  # whole runs, or nothing
            assert sum(output.exported().values()) in (0, 2 * ROWS, 4 * ROWS)
    assert call > 1
    output.export()
    check(output, "run-1", "run-2")


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
        if paths and paths[0].startswith("table/") and not others:
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
    kind = Iceberg if "iceberg" in output.target else Delta
    original = kind._write

    def write(*arguments):
        original(*arguments)
        monkeypatch.setattr(kind, "_write", original)
        output.prune("b")
        output.label(("d", 0), ("a", 0))
        output.export()

    monkeypatch.setattr(kind, "_write", write)
    assert output.export()["runs"] == ["run-1"]
    check(output, "run-1", "run-2", "run-4")


def test_two_exports_that_create_the_table_at_once(output, monkeypatch):
    output.label(("a", 0))
    kind = Iceberg if "iceberg" in output.target else Delta
    original = kind._create

    def create(self, schema):
        monkeypatch.setattr(kind, "_create", original)
        output.export()
        return original(self, schema)

    monkeypatch.setattr(kind, "_create", create)
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
    kind = Iceberg if "iceberg" in output.target else Delta
    original = kind._write

    def write(self, table, *others):
        output.touch()
        original(self, table, *others)

    monkeypatch.setattr(kind, "_write", write)
    with pytest.raises(FastBertError, match="other writers changed .* export again"):
        output.export()


@pytest.mark.parametrize("when", ["before", "between", "gone"])
def test_slices_relabelled_meanwhile_are_not_exported(output, monkeypatch, when):
    """A run replaces `b` before its rows are read, or when they were but `c` was not yet."""
    output.label(("a", 0), ("b", 0), ("c", 0))
    original = Storage.read
    trigger = {"before": "table/b.", "between": "table/c.", "gone": "table/b."}[when]
    started = []

    def read(self, paths):
        if paths and paths[0].startswith(trigger) and not started:
            started.append(True)
            if when == "gone":
                output.forget(*(r for r in committed(output.ledger) if r.shard == "b"))
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
