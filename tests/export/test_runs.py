"""Runs become transactions: one by one, once, in the order of time."""

from collections import Counter

import pyarrow.compute as pc
from support.records import committed

from export.output import as_key, check


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
    again = output.export()
    assert again | {"version": 0} == summary | {
        "version": 0, "runs": [], "rows_added": 0, "slices_added": 0,
    }  # fmt: skip
    assert again["version"] != summary["version"]
    check(output, "run-1", "run-2")


def test_rows_say_where_they_are_from(output):
    (one, _) = output.label(("a", 7), ("b", 0))
    output.export()
    rows = output.read().filter(pc.field("shard") == "a").sort_by("row")
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
        output.forget(each)
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
    output.forget(old[0])
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
    records = {r.shard: r for r in committed(output.ledger)}
    output.withdraw(records["b"])
    output.forget(records["c"])
    assert output.export()["unfinished_run"] is True
    assert output.exported() == before
    output.label(("b", 0), ("c", 0))  # goes on, and ends both
    assert output.export()["unfinished_run"] is False
    check(output, "run-1", "run-2", "run-3")


def test_rows_of_somebody_else_are_left_alone(output):
    output.label(("a", 0))
    output.export()
    output.add_mine()
    output.label(("a", 0))
    assert output.export()["runs"] == ["run-2"]
    assert output.exported() - output.truth() == Counter([as_key({"label": "mine"})])


def test_rows_deleted_by_hand_stay_deleted(output):
    """As those of a person who wants to be forgotten."""
    output.label(("a", 0), ("b", 0))
    output.export()
    output.delete("shard = 'a' and row < 3")
    assert output.export()["slices_added"] == 0
    output.label(("c", 0))
    output.export()
    lost = [dict(row) for row in output.truth() - output.exported()]
    assert sorted((row["shard"], row["row"]) for row in lost) == [("a", 0), ("a", 1), ("a", 2)]
