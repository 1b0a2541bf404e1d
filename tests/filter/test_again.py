"""Shards that have changed, runs that were killed, and runs after others."""

import logging
import os
import shutil
from itertools import count
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filter.corpus import files, keep, rows_of
from pipelines.filter import kept as kept_folder
from pipelines.filter import rows as kept_rows
from pipelines.filter.condition import Condition
from pipelines.filter.kept import LIST
from pipelines.output.storage import Storage


def changed(root: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows_of(9, 33)), root / "in" / "dt=1" / "a.parquet")


def gone(root: Path) -> None:
    (root / "in" / "dt=1" / "a.parquet").unlink()


def relabelled_in_part(root: Path) -> None:
    """As a run leaves it that was killed."""
    storage = Storage(str(root / "out"))
    storage.remove("table/dt=1/a.000000000010.parquet")


def other_labels(root: Path) -> None:
    path = root / "out" / "table" / "dt=1" / "a.000000000010.parquet"
    table = pq.read_table(path, partitioning=None)
    metadata = table.schema.metadata | {b"fastbert.source_version": b"another"}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def damaged_labels(root: Path) -> None:
    path = root / "out" / "table" / "dt=1" / "a.000000000010.parquet"
    path.write_bytes(path.read_bytes()[:-9])


def damaged(root: Path) -> None:
    """The same version, but not readable."""
    path = root / "in" / "dt=1" / "a.parquet"
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


PASSED_OVER = {
    changed: "has changed since it was labelled; run fastbert label",
    gone: "has labels, and is no longer in --input; run fastbert label --prune",
    relabelled_in_part: "has rows without labels; run fastbert label to its end",
    other_labels: "other labels in table/dt=1/a.000000000010.parquet than the ledger said",
    damaged_labels: "cannot be read: .*; remove that file, run fastbert label",
    damaged: "cannot be read as Parquet",
}


@pytest.mark.parametrize("change", PASSED_OVER)
@pytest.mark.parametrize("before", [False, True])
def test_a_shard_whose_labels_are_not_its_own_is_passed_over(world, change, before, caplog):
    """And nothing is left of what was kept of it before; the others are as ever."""
    keep(world, "label <> 'ape'")
    whole = files(world / "kept")
    if not before:
        shutil.rmtree(world / "kept")
    change(world)
    with caplog.at_level(logging.WARNING):
        summary = keep(world, "label <> 'ape'")
    ((url, reason),) = summary["bad_shards"].items()
    assert url.endswith("/in/dt=1/a.parquet")
    assert pd.Series(reason).str.contains(PASSED_OVER[change]).all(), reason
    assert f"passed over: {url} {reason}" in caplog.text
    assert summary["exit_code"] == 3
    found = files(world / "kept")
    for each in (whole, found):
        del each[LIST]
    del whole["dt=1/a.parquet"]
    assert found == whole


def test_a_shard_that_is_new_is_passed_over(world):
    shutil.copy(world / "in" / "d.jsonl", world / "in" / "new.jsonl")
    summary = keep(world)
    assert [*summary["bad_shards"].values()] == ["has no labels; run fastbert label, and filter "
                                                 "again"]  # fmt: skip
    assert not (world / "kept" / "new.parquet").exists()


@pytest.mark.parametrize("what", [changed, gone])
def test_a_shard_that_changes_while_it_is_read_is_passed_over(world, what, monkeypatch):
    first = Condition.answer

    def answer(*arguments):
        monkeypatch.setattr(Condition, "answer", first)
        found = first(*arguments)
        if (world / "in" / "dt=1" / "a.parquet").exists():
            what(world)
        return found

    monkeypatch.setattr(Condition, "answer", answer)
    summary = keep(world)
    assert summary["exit_code"] == 3
    assert summary["bad_shards"].keys() == {f"file://{world}/in/dt=1/a.parquet"}
    assert not (world / "kept" / "dt=1" / "a.parquet").exists()
    assert (world / "kept" / "d.parquet").exists()


def test_labels_that_vanish_meanwhile_are_passed_over(world, monkeypatch):
    original = Storage.read

    def read(self, paths):
        lost = "table/dt=1/a.000000000010.parquet"
        return original(self, [path for path in paths if path != lost])

    monkeypatch.setattr(Storage, "read", read)
    ((url, reason),) = keep(world)["bad_shards"].items()
    assert url.endswith("/in/dt=1/a.parquet")
    assert "filter again when no run is at work" in reason


def test_another_condition_leaves_nothing_of_the_first(world):
    keep(world)
    keep(world, "label = 'nothing'", format="jsonl")
    assert files(world / "kept").keys() == {LIST}
    keep(world, "dt = 2")
    assert files(world / "kept").keys() == {LIST, "dt=2/part=y/c.parquet"}


def test_what_others_have_put_there_stays(world):
    keep(world)
    (world / "kept" / "mine.txt").write_text("mine")
    keep(world, "label = 'nothing'")
    assert files(world / "kept").keys() == {LIST, "mine.txt"}


class Killed(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (Storage, "put"),
        (Storage, "writing"),
        (Storage, "remove"),
        (Condition, "answer"),
        (kept_folder.Kept, "begin"),
        (kept_rows, "together"),
        (os, "replace"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_run_that_was_killed_is_done_by_the_next(world, where, name, monkeypatch):
    """Killed at every call in turn, it leaves nothing that the next one would not; the folder had
    the result of another condition, in another format."""
    monkeypatch.setattr("pipelines.filter.job.cores", lambda: 1)
    keep(world, "label <> 'ape'")
    whole = files(world / "kept")
    shutil.rmtree(world / "kept")
    keep(world, "dt is null and id % 3 = 0", format="jsonl")
    original = getattr(where, name)
    for call in range(1, 60):
        calls = count(1)

        def wrapped(*arguments, call=call, calls=calls, **named):
            if next(calls) == call:
                raise Killed
            return original(*arguments, **named)

        monkeypatch.setattr(where, name, wrapped)
        try:
            keep(world, "label <> 'ape'")
            break
        except Killed:
            pass
        finally:
            monkeypatch.setattr(where, name, original)
    assert call > 1
    keep(world, "label <> 'ape'")
    assert files(world / "kept") == whole
    assert not (world / "kept" / "staging").exists()


def test_what_a_killed_writer_has_left_goes(world):
    keep(world)
    (world / "kept" / "staging").mkdir()
    (world / "kept" / "staging" / "0123").touch()
    keep(world)
    assert not (world / "kept" / "staging").exists()


def test_the_types_that_labelling_has_settled_on_are_found_again(world):
    keep(world)
    whole = files(world / "kept")
    (world / "out" / "ledger" / "fields.arrow").unlink()
    keep(world)
    assert files(world / "kept") == whole
