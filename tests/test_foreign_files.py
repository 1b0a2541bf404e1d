"""What lies in the input's folder and is no shard: passed over, and said to be."""

import logging
import os
import shutil

import fsspec
import pytest
from support.labelling import settings
from support.records import committed
from support.shards import write_shard
from support.stages import InProcess

from fastbert.errors import InputError
from pipelines.input.listing import described
from pipelines.input.shards import find_shards
from pipelines.labelling.job import label
from pipelines.output.ledger import Ledger
from pipelines.output.storage import Storage

TEXTS = ["the red river", "a blue stone"]


def names(*urls) -> list[str]:
    return [shard.name for shard in find_shards([str(url) for url in urls])]


@pytest.fixture
def shard(tmp_path):
    return write_shard(tmp_path / "in" / "a.parquet", TEXTS)


HIDDEN = [
    "_temporary/0/attempt_1/a.parquet", ".ipynb_checkpoints/a-checkpoint.parquet", "._a.parquet",
    "_x.parquet", ".parquet", "dt=1/.b/c.parquet", "_metadata", "_SUCCESS", ".a.parquet.crc",
]  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_files_are_passed_over_and_named(shard, name, caplog):
    place = shard.parent / name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(shard, place)
    with caplog.at_level(logging.INFO):
        found = find_shards([str(shard.parent)])
    assert [each.name for each in found] == ["a"]
    assert found.passed_over == 1
    assert f"1 hidden, with a name that begins with . or _ ({name})" in caplog.text
    glob = f"{shard.parent}/**/*.parquet"
    assert names(glob) == ["a"]


def test_partitions_of_a_column_that_begins_with_an_underscore_are_read(shard):
    write_shard(shard.parent / "_dt=1" / "b.parquet", TEXTS)
    assert names(shard.parent) == ["_dt=1/b", "a"]


def test_what_is_named_explicitly_is_read(tmp_path):
    """The root, a file, and what a glob asks for by its own letters."""
    for name in ("_in/.a.parquet", "_in/_b/c.parquet", "_in/d.parquet", "_in/e.tmp"):
        write_shard(tmp_path / name, TEXTS)
    assert names(tmp_path / "_in") == ["d"]
    assert names(tmp_path / "_in" / ".a.parquet") == [".a"]
    assert names(tmp_path / "_in" / "e.tmp") == ["e.tmp"]
    assert names(tmp_path / "_in" / "_b") == names(tmp_path / "_in" / "_b" / "*") == ["c"]
    assert names(tmp_path / "_in" / "_*" / "*.parquet") == ["_b/c"]
    assert names(tmp_path / "_in" / "*.tmp") == ["e.tmp"]


def test_other_names_are_counted_with_their_reasons(shard, caplog):
    for name in ("b.csv", "c.jsonl", "d.PARQUET", "e.parq", "part-0", "f.csv", "dt=1/g.csv"):
        (shard.parent / name).parent.mkdir(exist_ok=True)
        (shard.parent / name).write_text("x")
    for name in ("h.parquet._COPYING_", "i.parquet.tmp", "a.parquet.crc"):
        (shard.parent / name).write_text("x")
    with caplog.at_level(logging.INFO):
        assert find_shards([str(shard.parent)]).passed_over == 6
    (line,) = [record.getMessage() for record in caplog.records]
    assert "passed over 6 of the input's files: 3 not named as Parquet" in line
    assert "3 temporary (" in line
    assert "\n" not in line
    found = find_shards([f"{shard.parent}/*"])
    assert [each.name for each in found] == ["a", "b.csv", "c.jsonl", "d.PARQUET", "e.parq",
                                             "f.csv", "part-0"]  # fmt: skip
    assert found.passed_over == 4  # with the folder dt=1


def test_each_ending_is_among_the_examples():
    files = [(f"{i}.csv", "foreign") for i in range(9)] + [("a.parq", "foreign"), ("b", "foreign")]
    assert described(files) == "11 of the input's files: 11 foreign (0.csv, a.parq, b, …)"


def test_only_foreign_files_are_an_error_that_names_them(tmp_path):
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "part-0.PARQUET").touch()
    with pytest.raises(
        InputError, match=r"no Parquet, Arrow, JSON Lines or CSV at .*\(part-0.PARQUET\)"
    ) as caught:
        find_shards([str(tmp_path)])
    assert "_SUCCESS" in str(caught.value)


def test_an_input_that_is_given_twice_is_counted_once(shard, caplog):
    (shard.parent / "b.txt").touch()
    assert find_shards([str(shard.parent), f"{shard.parent}/"]).passed_over == 1
    assert find_shards([str(shard.parent), str(shard.parent / "b.txt")]).passed_over == 0


def test_json_beside_other_data_describes_it(shard, caplog):
    (shard.parent / "dataset_info.json").write_text("{}")
    (shard.parent / "b.json.gz").touch()
    with caplog.at_level(logging.INFO):
        assert names(shard.parent) == ["a", "b.json.gz"]
    assert "1 named .json beside other data (dataset_info.json)" in caplog.text
    assert names(shard.parent / "*.json") == ["dataset_info.json"]
    shard.unlink()
    (shard.parent / "b.json.gz").unlink()
    assert names(shard.parent) == ["dataset_info.json"]


def test_markers_of_folders_are_nothing(shard):
    """As consoles and Hadoop put them into object stores."""
    memory = fsspec.filesystem("memory")
    memory.put(f"{shard.parent}/", "/marked/", recursive=True)
    for name in ("/marked/day.parquet_$folder$", "/marked/dt=1_$folder$"):
        memory.pipe_file(name, b"")
    try:
        found = find_shards(["memory://marked"])
        assert [each.name for each in found] == ["a"]
        assert found.passed_over == 0
    finally:
        memory.rm("/marked", recursive=True)


def test_links_are_judged_by_their_own_names(shard):
    """As volumes of Kubernetes show a file: through hidden folders of versions."""
    os.rename(shard.parent, shard.parent.parent / "..2026_11_26")
    shard.parent.mkdir()
    os.rename(shard.parent.parent / "..2026_11_26", shard.parent / "..2026_11_26")
    (shard.parent / "..data").symlink_to("..2026_11_26")
    (shard.parent / "a.parquet").symlink_to("..data/a.parquet")
    assert names(shard.parent) == ["a"]


def test_labels_of_what_is_hidden_now_stay_until_pruned(tmp_path, shard, checkpoint, caplog):
    """Earlier releases labelled such files."""
    write_shard(tmp_path / "in" / "b.parquet", TEXTS)
    asked = dict(corpus=tmp_path / "in", output=tmp_path / "out", checkpoint=checkpoint, speed=0.5)
    summary = label(settings(**asked), InProcess())
    assert summary["passed_over"] == 0
    os.rename(tmp_path / "in" / "b.parquet", tmp_path / "in" / "_b.parquet")
    with caplog.at_level(logging.INFO):
        assert label(settings(**asked), InProcess())["passed_over"] == 1
    assert "1 slices of shards that are no longer in the input keep their labels" in caplog.text
    ledger = Ledger(Storage(str(tmp_path / "out")))
    assert len(committed(ledger)) == 2
    assert label(settings(**asked, prune=True), InProcess())["slices_removed"] == 1
    assert [record.shard for record in committed(ledger)] == ["a"]
