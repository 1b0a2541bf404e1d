"""Records may be lost: labelled rows are not, and none is there twice."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.labelling import settings, table_of
from support.records import committed, identity, places, record
from support.records import paths as paths_of
from support.shards import SCAN, random_texts, scan_of, write_shard
from support.stages import InProcess

from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard
from pipelines.labelling import job as jobs
from pipelines.labelling.adopt import adopt
from pipelines.labelling.job import label
from pipelines.labelling.plan import Plan, make_plan
from pipelines.output.history import statistics
from pipelines.output.ledger import Ledger
from pipelines.output.lock import LOCK, OutputHeld, RunLock
from pipelines.output.manifests import rows_of
from pipelines.output.record import Record, facts
from pipelines.output.statistics import MEASURES, Seconds
from pipelines.output.storage import Storage, to_parquet

NOBODY = InProcess(lambda: pytest.fail("something is labelled again"))


@pytest.fixture
def night(tmp_path, checkpoint, monkeypatch):
    """Labels two shards of 25 and 12 rows, two of them without text."""
    monkeypatch.setattr(jobs, "RunLock", lambda s, r: RunLock(s, r, settle=0))
    write_shard(tmp_path / "in" / "a.parquet", [*random_texts(23), None, " "])
    write_shard(tmp_path / "in" / "dt=1" / "b.parquet", random_texts(12, seed=1))

    def run(executor=None, **changes) -> dict:
        asked = {"speed": 0.5, "audit_rate": 0.3} | changes
        places = (tmp_path / "in", tmp_path / "out", checkpoint)
        return label(settings(*places, **asked), executor or InProcess())

    return run


def records_of(output: Path) -> dict[str, Record]:
    return {r.path: r for r in committed(Ledger(Storage(str(output))))}


def lose(output: Path, *paths: str) -> None:
    """All records, or those of some files."""
    ledger = Ledger(Storage(str(output)))
    commits = ledger.committed().commits
    ledger.withdraw(commits.filter(pa.array([not paths or p in paths for p in paths_of(commits)])))


def counts(summary: dict) -> dict[str, int]:
    names = "slices_labelled slices_up_to_date slices_adopted slices_removed leftovers_removed"
    return {name: summary[name] for name in [*names.split(), "leftovers"] if summary.get(name)}


def test_a_table_that_is_restored_without_its_ledger(tmp_path, night):
    """All is adopted, nothing labelled or removed; the records say what they said, except costs."""
    night()
    output = tmp_path / "out"
    before, rows = records_of(output), table_of(output)
    shutil.rmtree(output / "ledger")
    shutil.rmtree(output / "stats")
    asked = night(NOBODY, dry_run=True)
    assert counts(asked) == {"slices_up_to_date": 5, "slices_adopted": 5}
    assert not (output / "ledger").exists()
    summary = night(NOBODY, run_id="second")
    assert counts(summary) == {"slices_up_to_date": 5, "slices_adopted": 5}
    assert summary["exit_code"] == 0
    assert table_of(output).equals(rows)
    after = records_of(output)
    costs = {m.name: 0 for m in MEASURES if m.kind == Seconds} | {"retries": 0}
    assert after.keys() == before.keys()
    for path, found in after.items():
        now = {"run_id": "second", "committed_at": found.committed_at}
        assert found == replace(before[path], **costs, **now)
        assert found.committed_at > before[path].committed_at
    written = pq.read_table(output / "stats" / "second.parquet")
    assert written.equals(statistics(rows_of(after.values())))
    assert counts(night(NOBODY)) == {"slices_up_to_date": 5}


def test_labels_of_shards_that_are_gone_outlive_their_records(tmp_path, night):
    night()
    (tmp_path / "in" / "dt=1" / "b.parquet").unlink()
    rows = table_of(tmp_path / "out")
    lose(tmp_path / "out")
    adopted = {"slices_up_to_date": 3, "slices_adopted": 3, "leftovers": 2}
    assert counts(night(NOBODY, run_id="second")) == adopted
    assert counts(night(NOBODY, dry_run=True)) == {"slices_up_to_date": 3, "leftovers": 2}
    assert table_of(tmp_path / "out").equals(rows)
    pruned = night(NOBODY, prune=True, run_id="third")
    assert counts(pruned) == {"slices_up_to_date": 3, "leftovers_removed": 2}
    assert (tmp_path / "out" / "ledger" / "runs" / "third.json").exists()
    assert table_of(tmp_path / "out").num_rows == 25


def test_labels_of_a_shard_that_cannot_be_read_outlive_their_records(tmp_path, night):
    night()
    rows = table_of(tmp_path / "out")
    lose(tmp_path / "out")
    (tmp_path / "in" / "dt=1" / "b.parquet").write_bytes(b"PAR1, and no more")
    summary = night(NOBODY, prune=True)
    assert counts(summary) == {"slices_up_to_date": 3, "slices_adopted": 3, "leftovers": 2}
    assert summary["exit_code"] == 3
    assert table_of(tmp_path / "out").equals(rows)


A = [f"table/a.{first:012d}.parquet" for first in (0, 10, 20)]


def test_a_run_that_was_killed_between_rows_and_record(tmp_path, night):
    night(run_id="first")
    rows = table_of(tmp_path / "out")
    lose(tmp_path / "out", A[1])
    summary = night(NOBODY, run_id="second")
    assert counts(summary) == {"slices_up_to_date": 5, "slices_adopted": 1}
    assert table_of(tmp_path / "out").equals(rows)


def test_rows_that_are_not_what_this_run_would_write_are_not_adopted(tmp_path, night):
    """Of another version of their shard, or labelled otherwise: they are replaced, as ever."""
    night()
    lose(tmp_path / "out")
    write_shard(tmp_path / "in" / "a.parquet", random_texts(14, seed=5))
    changed = {"slices_up_to_date": 2, "slices_adopted": 2, "slices_labelled": 2}
    assert counts(night()) == changed | {"leftovers_removed": 1}
    lose(tmp_path / "out")
    assert counts(night(speed=0.6)) == {"slices_labelled": 4}
    lose(tmp_path / "out", A[0])
    assert counts(night(relabel=True, speed=0.6)) == {"slices_up_to_date": 3, "slices_labelled": 1}
    ids = table_of(tmp_path / "out")["id"].to_pylist()
    assert ids == [*range(14), *range(12)]


def test_files_that_somebody_has_changed_are_not_adopted(tmp_path, night):
    """Copied to another place in the table, cut, emptied, or rewritten without what they said."""
    night()
    table = tmp_path / "out" / "table"
    rows = table_of(tmp_path / "out")
    lose(tmp_path / "out")
    files = [tmp_path / "out" / path for path in A]
    shutil.copy(files[0], table / "a.000000000003.parquet")
    said = pq.read_metadata(files[0]).metadata[b"fastbert.record"]
    files[0].write_bytes(to_parquet(pq.read_table(files[0])[:9], {"fastbert.record": said}))
    pq.write_table(pq.read_table(files[1]).replace_schema_metadata(None), files[1])
    whole = files[2].read_bytes()
    size = int.from_bytes(whole[-8:-4], "little")
    files[2].write_bytes(whole[: -8 - size] + bytes(size) + whole[-8:])  # what Thrift cannot read
    found = night()
    assert counts(found) == {
        **{"slices_up_to_date": 2, "slices_adopted": 2, "slices_labelled": 3},
        "leftovers_removed": 1,
    }
    assert table_of(tmp_path / "out").equals(rows)


def test_nothing_is_removed_by_a_run_that_has_lost_the_lock_while_it_started(tmp_path, night):
    night()
    write_shard(tmp_path / "in" / "a.parquet", random_texts(14, seed=5))
    before, storage = records_of(tmp_path / "out"), Storage(str(tmp_path / "out"))

    class Slow(InProcess):
        def resources(self, settings):
            storage.put(LOCK, b'{"token": "theirs", "run_id": "other"}')
            return super().resources(settings)

    with pytest.raises(OutputHeld, match="run other"):
        night(Slow())
    assert records_of(tmp_path / "out") == before


def test_what_a_killed_committer_was_writing_is_removed_when_the_run_ends(tmp_path, night):
    class Killed(InProcess):
        def run(self, *what):
            yield from super().run(*what)
            (tmp_path / "out" / "staging" / "half").write_bytes(b"PAR1")

    night(Killed())
    assert not [*(tmp_path / "out" / "staging").iterdir()]


def held(storage: Storage, *records: Record, known: bool = False) -> None:
    """Files that describe themselves, with their records or without."""
    for each in records:
        storage.put(each.path, to_parquet(pa.table({"n": range(each.rows)}), facts(each)))
        if known:
            Ledger(storage).put(each)


def planned(storage: Storage, *shards: Shard) -> Plan:
    """What a run would do, whose shards have rows."""
    output = Ledger(storage).committed()
    found = adopt(Ledger(storage), output, list(shards), identity(), "night-2")
    with mock.patch(SCAN, return_value=scan_of(60)):
        return make_plan(list(shards), found, identity(), InputColumns(), 10, "refuse")


def adopted(storage: Storage, *shards: Shard) -> list[tuple[str, int]]:
    found = planned(storage, *shards)
    assert all(r.run_id == "night-2" for r in found.adopted)
    return [(r.shard, r.first_row) for r in found.adopted]


SHARD = Shard("file:///in/a.parquet", "a", "etag:1")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "etag:2"},
        {"source": "file:///elsewhere/a.parquet"},
        {"recipe": identity(max_length=33).recipe},
        {"recipe": {}},
        {"model_errors": 1},
        {"shard_rows": 5},
        {"shard": "b"},
        {"exits": [1]},
        {"rows": -1},
    ],
)
def test_what_does_not_fit_is_not_adopted(tmp_path, changes):
    storage = Storage(str(tmp_path))
    whole = record("a", shard_rows=30)
    held(storage, whole)
    assert adopted(storage, SHARD) == [("a", 0)]
    said = facts(replace(whole, **changes))
    storage.put(whole.path, to_parquet(pa.table({"n": range(10)}), said))
    assert adopted(storage, SHARD) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "null", '{"rows": 10}'])
def test_what_says_nothing_is_not_adopted(tmp_path, text):
    storage = Storage(str(tmp_path))
    said = {"fastbert.record": text}
    storage.put(record("a").path, to_parquet(pa.table({"n": range(10)}), said))
    assert adopted(storage, SHARD) == []


def test_of_files_that_overlap_the_first_is_adopted_and_no_other_stays(tmp_path):
    storage = Storage(str(tmp_path))
    a = {"shard_rows": 60}
    held(storage, record("a", 20, 10, **a), record("b", 0, 60, **a), known=True)
    held(storage, record("a", 0, 10, **a), record("a", 10, 10, **a))
    held(storage, record("a", 25, 2, **a), record("a", 30, 10, **a), record("a", 35, 10, **a))
    held(storage, record("a", 45, 5, **a), record("b", 5, 5, **a))
    b = Shard("file:///in/b.parquet", "b", "etag:1")
    found = planned(storage, SHARD, b)
    assert [r.first_row for r in found.adopted] == [0, 10, 30, 45]
    assert [(piece.first_row, piece.rows) for piece in found.todo] == [(40, 5), (50, 10)]
    assert found.swept == [f"table/{name}.parquet" for name in
                           ("a.000000000025", "a.000000000035", "b.000000000005")]  # fmt: skip
    assert (found.left, places(found.removed), places(found.replaced)) == ([], [], [])


@pytest.mark.parametrize("first_row", [5, 15])
def test_a_file_that_overlaps_a_record_is_not_adopted(tmp_path, first_row):
    storage = Storage(str(tmp_path))
    held(storage, record("a", 10, 10, shard_rows=60), known=True)
    held(storage, stray := record("a", first_row, 10, shard_rows=60))
    found = planned(storage, SHARD)
    assert (found.adopted, places(found.removed), places(found.replaced)) == ([], [], [])
    assert stray.path in [*found.swept, *(piece.path for piece in found.todo)]


def test_another_precision_than_that_of_the_records_is_not_adopted(tmp_path):
    """A run was killed that labelled again in the one of the records."""
    storage = Storage(str(tmp_path))
    held(storage, record("a", 0, 10, shard_rows=20, precision="bf16"))
    assert adopted(storage, SHARD) == [("a", 0)]
    held(storage, record("a", 10, 10, shard_rows=20), known=True)
    assert adopted(storage, SHARD) == []


def test_only_files_of_the_input_are_looked_at(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    held(storage, record("gone"))
    monkeypatch.setattr(storage, "footer", lambda path: pytest.fail(f"{path} was opened"))
    assert adopted(storage, SHARD) == []


def test_a_file_says_nothing_of_the_attempt(tmp_path, night):
    """Two attempts at a slice publish the same bytes."""
    night(run_id="first")
    before = [(tmp_path / "out" / path).read_bytes() for path in A]
    lose(tmp_path / "out")
    night(run_id="second", relabel=True)
    assert [(tmp_path / "out" / path).read_bytes() for path in A] == before
    assert asdict(records_of(tmp_path / "out")[A[0]])["run_id"] == "second"
