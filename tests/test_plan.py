"""The plan is the difference between shards and commits."""

from dataclasses import replace
from itertools import count, zip_longest
from unittest import mock

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import committed as held
from support.records import holding, identity, places, record
from support.shards import SCAN, scan_of, write_shard

from fastbert.errors import InputError
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice
from pipelines.input.unreadable import ShardError
from pipelines.labelling.adopt import adopt
from pipelines.labelling.plan import Plan, make_plan
from pipelines.output.committed import Committed
from pipelines.output.ledger import Ledger
from pipelines.output.manifests import rows_of
from pipelines.output.record import Record, facts
from pipelines.output.storage import Storage, to_parquet

IDENTITY = identity()


def plan(
    shards,
    records=(),
    identity=IDENTITY,
    slice_rows=10,
    on_change="refuse",
    columns=None,
    stray=None,
    **more,
) -> Plan:
    output = holding(records, stray)
    columns = columns or InputColumns()
    return make_plan(shards, output, identity, columns, slice_rows, on_change, **more)


def committed(piece: Slice, identity=IDENTITY):
    return record(
        piece.shard.name,
        piece.first_row,
        piece.rows,
        source=piece.shard.url,
        version=piece.shard.version,
        shard_rows=piece.shard_rows,
        path=piece.path,
        recipe=identity.recipe,
    )


@pytest.fixture
def shards(tmp_path):
    write_shard(tmp_path / "dt=1" / "a.parquet", ["the"] * 25)
    write_shard(tmp_path / "dt=1" / "b.parquet", ["the"] * 10)
    write_shard(tmp_path / "dt=2" / "none.parquet", [])
    return find_shards([str(tmp_path)])


def ranges(found: Plan) -> list[tuple[str, int, int]]:
    return [(s.shard.name, s.first_row, s.rows) for s in found.todo]


ALL = [("dt=1/a", 0, 10), ("dt=1/a", 10, 10), ("dt=1/a", 20, 5), ("dt=1/b", 0, 10)]
ALL += [("dt=2/none", 0, 0)]


def test_everything_is_new(shards):
    found = plan(shards)
    assert ranges(found) == ALL
    assert found.todo[1].path == "table/dt=1/a.000000000010.parquet"


def test_nothing_is_new_and_nothing_is_opened(shards, monkeypatch):
    records = [committed(piece) for piece in plan(shards).todo]
    monkeypatch.setattr(Shard, "open", lambda _: pytest.fail("a shard was opened"))
    found = plan(shards, records)
    assert found.todo == []
    assert len(found.up_to_date) == len(ALL)


def test_what_a_killed_run_left_is_done_with_the_slice_size_of_the_next(shards):
    records = [committed(piece) for piece in plan(shards).todo if piece.first_row != 10]
    assert ranges(plan(shards, records, slice_rows=7)) == [("dt=1/a", 10, 7), ("dt=1/a", 17, 3)]


def test_a_changed_shard_only(shards):
    records = [committed(piece) for piece in plan(shards).todo]
    shards[1] = replace(shards[1], version="etag:2")
    found = plan(shards, records)
    assert ranges(found) == [("dt=1/b", 0, 10)]
    assert places(found.removed) == []  # written over, never missing
    assert places(found.replaced) == [("dt=1/b", 0)]


def test_a_version_may_be_recorded_as_it_was_called_formerly(shards):
    records = [committed(piece) for piece in plan(shards).todo]
    renamed = [replace(s, version="md5hash:x", formerly=s.version) for s in shards]
    assert plan(renamed, records).todo == []
    other = [replace(s, version="md5hash:x", formerly="etag:y") for s in shards]
    assert ranges(plan(other, records)) == ALL


def test_slices_that_a_shrunken_shard_no_longer_has_are_removed(shards, tmp_path):
    records = [committed(piece) for piece in plan(shards).todo]
    write_shard(tmp_path / "dt=1" / "a.parquet", ["the red"] * 12)
    found = plan(find_shards([str(tmp_path)]), records)
    assert ranges(found) == [("dt=1/a", 0, 10), ("dt=1/a", 10, 2)]
    assert places(found.removed) == [("dt=1/a", 20)]


def test_a_vanished_shard_is_listed(shards):
    records = [committed(piece) for piece in plan(shards).todo]
    found = plan(shards[1:], records)
    assert ({shard for shard, _ in places(found.spared)}, places(found.removed)) == ({"dt=1/a"}, [])
    assert found.gone == 3
    pruned = plan(shards[1:], records, prune=True)
    assert (pruned.spared.num_rows, pruned.removed) == (0, found.spared)
    assert pruned.gone == 0


def test_another_identity_is_an_error_that_says_what_differs(shards):
    records = [committed(piece) for piece in plan(shards).todo]
    other = identity(thresholds=[0.8, 0.8])
    with pytest.raises(InputError, match=r"thresholds \[0.5, 0.5\], this run has \[0.8, 0.8\]"):
        plan(shards, records, identity=other)
    assert ranges(plan(shards, records, identity=other, on_change="relabel")) == ALL


def test_another_identity_is_an_error_for_shards_that_are_gone_too(shards):
    """Or a glob that moves on every night would mix two models in one table."""
    records = [committed(piece) for piece in plan(shards).todo if piece.shard.name == "dt=1/a"]
    with pytest.raises(InputError, match="this run has"):
        plan(shards[1:], records, identity=identity(checkpoint="y"))


def test_commits_that_overlap_are_done_again(shards):
    first, second, *rest = (committed(piece) for piece in plan(shards).todo)
    found = plan(shards, [replace(first, rows=15), second, *rest])
    assert ranges(found) == [("dt=1/a", 15, 5)]
    assert places(found.removed) == [(second.shard, second.first_row)]


def test_commits_are_not_compared_with_each_other(shards, monkeypatch):
    """A shard may have thousands of slices: pairs of them would be millions."""
    records = [committed(piece) for piece in plan(shards).todo]
    monkeypatch.setattr(Record, "__eq__", lambda *_: pytest.fail("two records were compared"))
    assert places(plan(shards, records).removed) == []


def test_a_shard_from_elsewhere_does_not_replace_another(shards):
    records = [committed(piece) for piece in plan(shards).todo]
    moved = [replace(s, url=s.url.replace("dt=1", "dt=9")) for s in shards[:1]]
    with pytest.raises(InputError, match="pass the folder above both"):
        plan(moved, records)


def test_a_bad_shard_is_listed_and_keeps_its_old_rows(shards, tmp_path):
    records = [committed(piece) for piece in plan(shards).todo]
    (tmp_path / "dt=1" / "b.parquet").write_bytes(b"PAR1 and nothing more")
    found = plan(find_shards([str(tmp_path)]), records)
    assert ranges(found) == []
    assert places(found.removed) == []
    ((url, reason),) = found.bad_shards.items()
    assert url.endswith("b.parquet")
    assert "cannot be read as Parquet" in reason


def test_not_one_good_shard_is_an_error(shards):
    with pytest.raises(InputError, match=r"no shard.*no column 'body'.*text, id"):
        plan(shards, columns=InputColumns("body"))


@st.composite
def nights(draw):
    """What one run finds: version and rows of the shard, slice size, identity; how far it gets."""
    return {
        "shard": Shard("memory://x.parquet", "x", draw(st.sampled_from(["v1", "v2"]))),
        "slice_rows": draw(st.integers(1, 17)),
        "identity": identity(thresholds=[draw(st.sampled_from([0.5, 0.6]))] * 2),
        "on_change": draw(st.sampled_from(["new", "relabel"])),
        "fates": draw(st.lists(st.sampled_from(["untouched", "rows only", "done"]), max_size=60)),
        "ends": draw(st.booleans()),
    }


def work(ledger: Ledger, night: dict, rows: dict[str, int]) -> None:
    """A run that does what its plan says, and is killed where the fates say. Its labelling is
    another one only where it is not that of the last run."""
    shard, mine, output = night["shard"], night["identity"], ledger.committed()
    adopted = adopt(ledger, output, [shard], mine, "night-2")
    with mock.patch(SCAN, lambda s, _: scan_of(rows[s.version])):
        try:
            found = plan_(shard, adopted, mine, night["slice_rows"], "refuse")
        except InputError:
            seen = adopted if night["on_change"] == "new" else output
            found = plan_(shard, seen, mine, night["slice_rows"], night["on_change"])
    ledger.sweep(found.swept)
    ledger.forget(found.removed)
    ledger.withdraw(found.replaced)
    ledger.adopt(found.adopted)
    written = list(found.adopted)
    for piece, fate in zip_longest(found.todo, night["fates"][: len(found.todo)], fillvalue="done"):
        new = replace(committed(piece, mine), committed_at=f"{next(CLOCK):09d}")
        if fate != "untouched":
            labelled = pa.table({"row": range(piece.first_row, piece.first_row + piece.rows)})
            ledger.storage.put(piece.path, to_parquet(labelled, facts(new)))
        if fate == "done":
            ledger.put(new)
            written.append(new)
    if night["ends"]:
        ledger.fold(rows_of(written))


def plan_(shard: Shard, output: Committed, mine, slice_rows: int, on_change: str) -> Plan:
    return make_plan([shard], output, mine, InputColumns(), slice_rows, on_change)


CLOCK = count()


@given(
    history=st.lists(nights(), max_size=5),
    rows=st.fixed_dictionaries({"v1": st.integers(1, 60), "v2": st.integers(1, 60)}),
    last=nights(),
)
@settings(max_examples=50, deadline=None)
def test_whatever_killed_runs_have_left_the_next_one_makes_it_right(history, rows, last):
    """Runs over a changing shard with changing slices and identities, each killed somewhere; then
    one that is not. Its files tile the shard, each has a record, and there is nothing else."""
    fsspec.filesystem("memory").store.clear()
    ledger = Ledger(Storage("memory://out"))
    for night in history:
        work(ledger, night, rows)
        seen = held(ledger)
        covered = sorted(
            i
            for r in seen
            for i in range(r.first_row, r.first_row + r.rows)
            if r.version == night["shard"].version
        )
        assert len(covered) == len(set(covered))
    work(ledger, last | {"fates": []}, rows)
    output = ledger.committed()
    assert not output.stray
    paths = ledger.storage.paths("table", "")
    records = held(ledger)
    assert {record.path for record in records} == paths
    pieces = ledger.storage.read(sorted(paths)).values()  # in the order of their first rows
    tiles = [pq.read_table(pa.BufferReader(piece))["row"].to_pylist() for piece in pieces]
    assert sum(tiles, []) == list(range(rows[last["shard"].version]))
    assert all(r.version == last["shard"].version for r in records)
    if not any(night["on_change"] == "new" for night in [*history, last]):
        assert all(r.recipe == last["identity"].recipe for r in records)
    fsspec.filesystem("memory").store.clear()


def test_rows_without_a_record_are_removed_only_where_they_would_be_there_twice(shards, tmp_path):
    """Not where their shard is gone or cannot be read: they may be the only labels there are."""
    (tmp_path / "dt=1" / "b.parquet").write_bytes(b"PAR1 and nothing more")
    shards = find_shards([str(tmp_path)])
    a = [f"table/dt=1/a.{first:012d}.parquet" for first in (0, 10, 20)]
    b, gone = "table/dt=1/b.000000000000.parquet", "table/gone.000000000000.parquet"
    stray = dict.fromkeys(a, "dt=1/a") | {b: "dt=1/b", gone: "gone"}
    found = plan(shards, stray=stray)
    assert (found.swept, found.left) == ([], [b, gone])
    found = plan(shards, stray=stray, prune=True)
    assert (found.swept, found.left) == ([gone], [b])
    found = plan(shards, stray=stray, slice_rows=25)
    assert (found.swept, found.left) == (a[1:], [b, gone])


def test_what_was_given_up_is_done_again_on_demand_only(shards):
    records = [replace(committed(piece), quarantined=True) for piece in plan(shards).todo]
    assert plan(shards, records).todo == []
    again = plan(shards, records, retry_quarantined=True)
    assert ranges(again) == ALL
    assert sorted(places(again.replaced)) == sorted((r.shard, r.first_row) for r in records)


def test_errors_that_are_not_the_texts_own_are_tried_again_on_demand_only(shards):
    records = [committed(piece) for piece in plan(shards).todo]
    records[2] = replace(records[2], model_errors=1)
    assert plan(shards, records).todo == []
    again = plan(shards, records, retry_errors=True)
    assert [piece.path for piece in again.todo] == [records[2].path]
    assert places(again.replaced) == [(records[2].shard, records[2].first_row)]


def columns_of(**fields):
    return pa.schema(list(fields.items()))


def test_carried_columns():
    schema = columns_of(text=pa.string(), id=pa.int64(), label=pa.string())
    assert InputColumns().carried(schema) == {"id": "id", "label": "input_label"}
    upper = columns_of(text=pa.string(), Label=pa.string())  # SQL does not see the difference
    assert InputColumns().carried(upper) == {"Label": "input_Label"}
    assert InputColumns(carry=("id",)).carried(schema) == {"id": "id"}
    with pytest.raises(ShardError, match="no column 'other'"):
        InputColumns(carry=("other",)).carried(schema)
    with pytest.raises(ShardError, match="'id' is of type int64, expected string"):
        InputColumns("id").carried(schema)
    clash = columns_of(text=pa.string(), label=pa.string(), input_label=pa.string())
    with pytest.raises(ShardError, match="two carried columns would have the name 'input_label'"):
        InputColumns().carried(clash)
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        assert InputColumns().carried(columns_of(text=kind)) == {}
