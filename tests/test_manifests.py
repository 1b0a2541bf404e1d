"""Manifests hold what records of their own held: after every step, however it ends."""

from collections.abc import Callable
from dataclasses import replace
from math import log2

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import committed, holding, identity, record

from fastbert.errors import FastBertError, InputError
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard
from pipelines.labelling.plan import make_plan
from pipelines.output.committed import commits_of
from pipelines.output.ledger import Ledger
from pipelines.output.manifests import (
    FOLDER,
    PLANNED,
    Manifest,
    checked,
    counting,
    encoded,
    rows_of,
)
from pipelines.output.record import Record
from pipelines.output.storage import Damaged, Storage, to_parquet

ROOT = "memory://folded"


class Killed(BaseException):
    """Nothing catches it."""


class Mortal(Storage):
    """An output in memory whose user is killed after so many changes of it."""

    left = 10**9
    written = 0  # rows of manifests

    def put(self, path: str, data: bytes) -> None:
        self.change()
        super().put(path, data)

    def remove(self, path: str) -> None:
        self.change()
        super().remove(path)

    def remove_all(self, paths) -> None:
        for path in paths:
            self.remove(path)

    def change(self) -> None:
        if not self.left:
            raise Killed
        self.left -= 1


@pytest.fixture(autouse=True)
def empty() -> None:
    fsspec.filesystem("memory").store.clear()


def opened() -> Ledger:
    """As the next run finds it."""
    ledger = Ledger(Mortal(ROOT))
    ledger.committed()
    return ledger


def commit(ledger: Ledger, *records: Record) -> None:
    for each in records:
        ledger.storage.put(each.path, b"rows")
        ledger.put(each)


def night(*records: Record) -> None:
    """A run that commits these, and ends."""
    ledger = opened()
    commit(ledger, *records)
    ledger.fold(rows_of([*records]))


def held() -> dict[str, Record]:
    return {each.path: each for each in committed(Ledger(Storage(ROOT)))}


def by_path(*records: Record) -> dict[str, Record]:
    return {each.path: each for each in records}


def manifests() -> list[str]:
    return sorted(Storage(ROOT).paths(FOLDER, ""))


def own() -> set[str]:
    """Records of their own."""
    return Storage(ROOT).paths("ledger/slices", "")


A, B, C = (record(name) for name in "abc")
FULL = record(
    "dt=1/x",
    quarantined=True,
    errors={"text is null": 1},
    exit_depths=[0, 2, 6],
    exit_labels=[{"ape": 4, "b": 1}, {}, {"é": 1}],
    exit_uncertainties=[[1, 2], [0, 3], []],
    exit_flops=[2**62, 0, 2**63 - 1],
    recipe=identity(thresholds=[0.1, 1 / 3], carry=["id"]).recipe,
)


def test_a_record_is_the_same_before_and_after(caplog):
    night(A, B, FULL)
    assert own() == set()
    assert len(manifests()) == 1
    assert held() == by_path(A, B, FULL)
    assert not caplog.records


def test_what_is_committed_again_counts_once(caplog):
    night(A, B)
    again = replace(A, run_id="second")
    ledger = opened()
    ledger.withdraw(commits_of([A]))
    assert held() == by_path(B)
    commit(ledger, again)
    assert held() == by_path(again, B)
    ledger.fold(rows_of([again]))
    assert held() == by_path(again, B)
    assert not caplog.records


@pytest.mark.parametrize("folds", [0, 1, 2, 5])
def test_a_run_that_is_killed_at_any_moment_of_its_end(folds):
    """It has committed one slice and withdrawn one; manifests of all sizes are merged or not."""

    def before() -> Ledger:
        fsspec.filesystem("memory").store.clear()
        for i in range(folds):
            night(*(record("old", 100 * i + 10 * j, run_id=f"run-{i}") for j in range(i + 1)))
        commit(opened(), A, B)  # killed
        return opened()

    def finish(ledger: Ledger) -> None:
        ledger.withdraw(commits_of([B]))
        commit(ledger, C)
        ledger.fold(rows_of([C]))

    finish(before())
    whole = held()
    assert whole.keys() >= {A.path, C.path}
    for left in range(100):
        ledger = before()
        ledger.storage.left = left
        try:
            finish(ledger)
        except Killed:
            seen = held()
            assert seen.keys() | {B.path, C.path} == whole.keys() | {B.path}
            assert all(seen[path] == whole[path] for path in seen.keys() & whole.keys())
            finish(opened())  # what is done again
            assert held() == whole
            continue
        break
    assert left > 5
    assert own() == set()
    assert {Manifest.of(path) for path in manifests()} == set(counting(manifests()))


steps = st.one_of(
    st.tuples(st.just("night"), st.sets(st.integers(0, 9), max_size=5)),
    st.tuples(st.just("killed"), st.sets(st.integers(0, 9), max_size=5)),
    st.tuples(st.just("withdraw"), st.sets(st.integers(0, 9), max_size=5)),
    st.tuples(st.just("forget"), st.sets(st.integers(0, 9), max_size=5)),
    st.tuples(st.just("lose"), st.integers(0, 9)),
)


@given(st.lists(st.tuples(steps, st.none() | st.integers(0, 12)), max_size=12))
@settings(max_examples=40, deadline=None)
def test_the_ledger_is_a_dictionary(history):
    """Whatever runs commit, withdraw and remove, and wherever they are killed: it holds what a
    dictionary would. Of a manifest that is lost, the slices have no record, or an older one."""
    fsspec.filesystem("memory").store.clear()
    truth: dict[str, Record] = {}
    older: dict[str, list[Record]] = {}
    for number, ((what, chosen), left) in enumerate(history):
        if what == "lose":
            if paths := manifests():
                Storage(ROOT).remove(paths[chosen % len(paths)])
                for path, found in held().items():
                    assert found in older[path]
                truth = held()
            continue
        mine = [record("s", 10 * i, run_id=f"run-{number}") for i in chosen]
        ledger = opened()
        ledger.storage.left = 10**9 if left is None else left
        begun = dict(truth)
        try:
            work(ledger, what, mine, truth, older)
        except Killed:
            seen = held()
            for path in seen.keys() | begun.keys() | truth.keys():  # each before or after its step
                assert seen.get(path) in (begun.get(path), truth.get(path), None)
                if path not in by_path(*mine):
                    assert seen.get(path) == begun.get(path)
            truth = seen
        assert held() == truth


def work(
    ledger: Ledger,
    what: str,
    mine: list[Record],
    truth: dict[str, Record],
    older: dict[str, list[Record]],
) -> None:
    """A run, and what the dictionary has after it."""
    known = commits_of([each for each in mine if each.path in truth])
    for each in mine:
        truth.pop(each.path, None)
    (ledger.forget if what == "forget" else ledger.withdraw)(known)
    if what in ("night", "killed"):
        for each in mine:
            older.setdefault(each.path, []).append(each)
        truth.update(by_path(*mine))
        commit(ledger, *mine)
    if what != "killed":
        ledger.fold(rows_of(mine if what == "night" else []))


def test_of_n_slices_each_is_written_log_n_times(monkeypatch):
    nights, written = 256, 0

    def spy(tables):
        nonlocal written
        tables = list(tables)
        written += sum(map(len, tables))
        return encoded(tables)

    monkeypatch.setattr("pipelines.output.manifests.encoded", spy)
    ledger = opened()
    for i in range(nights):
        mine = record("a", 10 * i)
        commit(ledger, mine)
        ledger.fold(rows_of([mine]))
    assert len(manifests()) <= log2(nights) + 1
    assert written <= nights * (log2(nights) + 1)
    assert len(held()) == nights


def test_what_is_withdrawn_and_written_again_does_not_pile_up():
    for i in range(40):
        ledger = opened()
        mine = [replace(each, run_id=f"run-{i}") for each in (A, B)]
        ledger.withdraw(ledger.committed().commits)
        commit(ledger, *mine)
        ledger.fold(rows_of(mine))
    assert rows_of_manifests() <= 8


def test_of_what_is_removed_nothing_is_left():
    for i in range(20):
        night(record("a", 10 * i))
    ledger = opened()
    ledger.forget(ledger.committed().commits.slice(0, 15))
    ledger.fold(rows_of([]))
    assert rows_of_manifests() <= 20 + 15
    night(*(record("b", 10 * i) for i in range(30)))
    assert rows_of_manifests() == len(held()) == 5 + 30


def rows_of_manifests() -> int:
    found = Storage(ROOT).read(manifests()).values()
    return sum(pq.read_metadata(pa.BufferReader(data)).num_rows for data in found)


@pytest.mark.parametrize("how", ["lost", "empty", "half", "flipped", "no columns"])
def test_of_a_manifest_that_is_lost_or_damaged_the_slices_have_no_record(caplog, how):
    """It is named, and nothing else is lost; a damaged one stays, for who can restore it."""
    night(A, B, FULL)
    night(C)
    first, _ = manifests()
    storage = Storage(ROOT)
    data = storage.read([first])[first]
    if how == "lost":
        storage.remove(first)
    else:
        middle = len(data) // 2
        storage.put(first, {
            "empty": b"",
            "half": data[:middle],
            "flipped": data[:60] + bytes(255 - byte for byte in data[60:90]) + data[90:],
            "no columns": to_parquet(pa.table({"x": [1]})),
        }[how])  # fmt: skip
    assert held() == by_path(C)
    assert ("the folds 1 to 1" if how == "lost" else first) in caplog.text
    found = Ledger(storage).committed()
    assert found.stray.keys() == by_path(A, B, FULL).keys()
    again = replace(A, run_id="again")
    night(again)
    assert held() == by_path(again, C)
    assert (first in manifests()) == (how != "lost")
    caplog.clear()
    assert held() == by_path(again, C)
    assert (first in caplog.text) == (how != "lost")  # what is missing is said once
    if how != "lost":
        storage.put(first, data)
        assert held() == by_path(again, B, C, FULL)


def test_a_byte_that_has_changed_changes_no_record():
    """Wherever it is: what is read is the same, or nothing is."""
    rows, storage = rows_of([A, replace(B, quarantined=True), FULL]), Storage(ROOT)
    expected, data = rows.select(PLANNED).to_pylist(), encoded([rows])
    found = set()
    for at in range(0, len(data), 29):
        storage.put("x", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            assert checked(storage.columns("x", PLANNED)).to_pylist() == expected
            found.add("the same")
        except Damaged:
            found.add("nothing")
    assert len(found) == 2


def test_a_manifest_whose_details_are_damaged_is_not_merged(caplog):
    """Plans do not read them: its slices stay done, and it stays what it is."""
    night(A, B, FULL)
    (path,) = manifests()
    storage = Storage(ROOT)
    data = storage.read([path])[path]
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    end = columns["exit_flops.list.element"].data_page_offset + 60
    storage.put(path, data[: end - 20] + b"\xaa" * 20 + data[end:])
    more = [record("d", 10 * i) for i in range(3)]
    night(*more)
    assert path in manifests()
    assert path in caplog.text
    caplog.clear()
    assert len(Ledger(storage).committed().commits) == 6
    assert not caplog.records
    assert held() == by_path(*more)
    assert path in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"first_row": -1},
        {"rows": -5},
        {"shard_rows": 3},
        {"shard": "../x"},
        {"shard": "a//b"},
        {"shard": "."},
    ],
)
def test_a_manifest_that_no_run_has_written_counts_as_damaged(caplog, change):
    night(A)
    odd = replace(B, **change)
    path = Manifest.new(2, 2, []).path
    Storage(ROOT).put(path, encoded([rows_of([odd, C])]))
    Storage(ROOT).put(C.path, b"rows")
    assert held() == by_path(A)
    assert path in caplog.text


def test_names_that_are_no_manifests_are_passed_over():
    night(A)
    for name in ("x.parquet", "000001-000002.parquet", "1-2-abc.parquet", "notes.txt"):
        Storage(ROOT).put(f"{FOLDER}/{name}", b"not ours")
    assert held() == by_path(A)


def test_of_two_that_wrote_at_once_the_later_counts_and_none_is_lost():
    """A run that had lost the output, and did not know it yet."""
    night(A)
    late, usual = opened(), opened()
    commit(late, B)
    late.fold(rows_of([B]))
    again = replace(B, run_id="usual")
    commit(usual, again, C)
    usual.fold(rows_of([again, C]))
    assert held() == by_path(A, again, C)
    night(FULL)
    assert held() == by_path(A, again, C, FULL)


@pytest.mark.parametrize(
    "when", ["before the records", "before the manifests", "while they are read"]
)
def test_a_reader_sees_all_while_a_run_ends(monkeypatch, when):
    night(A)
    commit(opened(), B)
    writer, reader = opened(), Ledger(Storage(ROOT))
    step = {"before the records": "ledger/slices", "before the manifests": FOLDER}.get(when)
    original: Callable = Storage.listing if step else Storage.columns
    done = []

    def meanwhile(self, place, *more):
        found = None if step else original(self, place, *more)
        if self is reader.storage and not done and (step is None or place == step):
            done.append(True)
            writer.fold(rows_of([]))
            if not step:
                return None  # it was merged before it was read
        return original(self, place, *more) if step else found

    monkeypatch.setattr(Storage, original.__name__, meanwhile)
    assert by_path(*committed(reader)) == by_path(A, B)
    assert done


def test_manifests_that_are_listed_and_never_there_are_an_error(monkeypatch):
    """What cannot be read is not taken for absent: its labels would be made again."""
    night(A)
    monkeypatch.setattr(Storage, "columns", lambda *_: None)
    with pytest.raises(FastBertError, match="lists manifests that do not exist"):
        Ledger(Storage(ROOT)).committed()


def test_a_fault_of_the_store_is_raised(monkeypatch):
    night(A)

    def fault(self, path, *_, **__):
        raise PermissionError(13, "denied", path)

    monkeypatch.setattr(fsspec.filesystem("memory").__class__, "open", fault)
    with pytest.raises(InputError, match=FOLDER):
        Ledger(Storage(ROOT)).committed()


@pytest.mark.parametrize("text", [b'{"format": 3}', b'{"format": "2"}', b"{}", b"[]", b"", b"{"])
def test_another_format_is_refused(text):
    night(A)
    Storage(ROOT).put("ledger/format.json", text)
    with pytest.raises(InputError, match=r"expected 2.*later release"):
        Ledger(Storage(ROOT)).committed()


def test_the_format_is_there_before_the_first_manifest():
    ledger = opened()
    commit(ledger, A)
    ledger.storage.left = 1
    with pytest.raises(Killed):
        ledger.fold(rows_of([A]))
    assert manifests() == []
    assert Storage(ROOT).read(["ledger/format.json"])


def test_columns_of_a_later_release_outlive_a_merge():
    path = Manifest.new(1, 1, []).path
    storage = Storage(ROOT)
    storage.put(A.path, b"rows")
    storage.put(path, encoded([rows_of([A]).append_column("later", pa.array([7]))]))
    night(B)
    (merged,) = manifests()
    table = pq.read_table(pa.BufferReader(storage.read([merged])[merged]))
    assert dict(zip(*(table[name].to_pylist() for name in ("shard", "later")), strict=True)) == {
        "a": 7,
        "b": None,
    }
    assert held() == by_path(A, B)


def test_a_night_with_nothing_to_do_makes_no_object_of_a_slice(monkeypatch):
    """And asks the store the same, however many there are."""
    slices = 300
    night(*(record("a", 10 * i, shard_rows=10 * slices) for i in range(slices)))
    asked = []
    for name in ("read", "listing", "columns", "footer"):
        original = getattr(Storage, name)
        monkeypatch.setattr(
            Storage,
            name,
            lambda *args, name=name, original=original: asked.append(name) or original(*args),
        )
    monkeypatch.setattr(Record, "__init__", lambda *_, **__: pytest.fail("an object of a slice"))
    output = Ledger(Storage(ROOT)).committed()
    shard = Shard(A.source, "a", A.version)
    found = make_plan([shard], output, identity(), InputColumns(), 10, "refuse")
    assert (found.todo, len(found.up_to_date)) == ([], slices)
    assert sorted(asked) == ["columns", "listing", "listing", "listing", "read"]


def test_precision_is_that_of_the_last_commit():
    older = replace(A, precision="bf16", committed_at="2026-11-21T00:00:00+00:00")
    other = replace(C, precision="int8", recipe={"checkpoint": "y"})
    assert holding([older, B, other]).precision(identity()) == "fp32"
    assert holding([other]).precision(identity()) is None
