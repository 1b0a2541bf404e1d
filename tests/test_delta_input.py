"""Tables as input: the files that their log says, or a refusal."""

import json
import logging
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from support.shards import random_texts, write_shard

from fastbert.errors import InputError
from pipelines.input.shards import find_shards

FIRST = "_delta_log/00000000000000000000.json"


def ids(*urls) -> list[int]:
    """Of the rows that are found."""
    found = []
    for shard in find_shards([str(url) for url in urls]):
        with shard.open() as file:
            found += pq.read_table(file)["id"].to_pylist()
    return sorted(found)


def table(rows: int = 12, first: int = 0) -> pa.Table:
    part = [f"p {i % 3}:%" for i in range(rows)]
    return pa.table({"text": random_texts(rows), "id": range(first, first + rows), "part": part})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Three files, of which one is rewritten and one removed, a checkpoint, and a version more."""
    folder = tmp_path_factory.mktemp("made") / "lake"
    write_deltalake(folder, table(), partition_by=["part"])
    delta = DeltaTable(folder)
    delta.delete("part = 'p 0:%'")
    delta.delete("id = 1")
    delta.create_checkpoint()
    write_deltalake(folder, table(3, first=90), partition_by=["part"], mode="append")
    return folder


@pytest.fixture
def lake(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "lake"))


def current(folder: Path) -> list[int]:
    return sorted(DeltaTable(folder).to_pyarrow_table()["id"].to_pylist())


def test_the_current_version_is_read(lake, caplog):
    expected = current(lake)
    assert expected == [2, 4, 5, 7, 8, 10, 11, 90, 91, 92]
    with caplog.at_level(logging.INFO):
        assert ids(lake) == expected
    assert "2 of older versions of a Delta table (part=" in caplog.text


def test_a_table_below_the_input(lake):
    write_shard(lake.parent / "beside.parquet", ["the red river"])
    assert ids(lake.parent) == sorted([0, *current(lake)])


@pytest.mark.parametrize("inside", ["*/*.parquet", "**/*.parquet", "", "part=*/*"])
def test_a_glob_in_a_table_finds_files_of_the_current_version(lake, inside):
    assert ids(f"{lake}/{inside}") == current(lake)


def found_or_older(url: Path) -> list[int]:
    with suppress(InputError):
        return ids(url)
    with pytest.raises(InputError, match="1 of older versions of a Delta table"):
        ids(url)
    return []


@pytest.mark.parametrize("inside", ["part=*", "part=*/*.parquet"])
def test_partitions_and_files_of_a_table(lake, inside):
    """Each by itself, with the table around it."""
    assert sorted(i for url in lake.glob(inside) for i in found_or_older(url)) == current(lake)


def test_any_file_system(lake):
    memory = fsspec.filesystem("memory")
    memory.put(f"{lake}/", "/deep/lake/", recursive=True)
    try:
        for url in ("memory://deep/lake", "memory://deep", "memory://deep/*/*/*.parquet"):
            assert ids(url) == current(lake)
    finally:
        memory.rm("/deep", recursive=True)


def test_only_the_log_from_its_last_checkpoint_on_is_needed(lake):
    (lake / FIRST).write_text("{spoiled")
    assert ids(lake) == current(lake)


def test_files_that_are_gone_are_bad_shards(lake):
    """A vacuum that was too early: the rows are lost, and the run must not look done."""
    uri = DeltaTable(lake).file_uris()[0]
    Path(uri).unlink()
    problems = [shard.problem for shard in find_shards([str(lake)]) if shard.problem]
    assert problems == [
        "is missing, but in the log of its Delta table; restore or repair the table"
    ]


def rewritten(folder: Path, change) -> None:
    """The table with another first entry of its log, and no others."""
    lines = [json.loads(line) for line in (folder / FIRST).read_text().splitlines()]
    for file in (folder / "_delta_log").iterdir():
        file.unlink()
    for line in lines:
        for kind, action in line.items():
            change(kind, action)
    (folder / FIRST).write_text("\n".join(map(json.dumps, lines)))


def features(*names):
    def change(kind, action):
        if kind == "protocol":
            action |= {"minReaderVersion": 3, "minWriterVersion": 7}
            action |= {"readerFeatures": names, "writerFeatures": names}

    return change


VECTOR = {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 1,
          "sizeInBytes": 36, "cardinality": 1}  # fmt: skip


def deleted(kind, action):
    features("deletionVectors")(kind, action)
    if kind == "add":
        action["deletionVector"] = VECTOR


def renamed(kind, action):
    if kind == "protocol":
        action |= {"minReaderVersion": 2, "minWriterVersion": 5}
    if kind == "metaData":
        schema = json.loads(action["schemaString"])
        for i, field in enumerate(schema["fields"]):
            field["metadata"] = {
                "delta.columnMapping.id": i, "delta.columnMapping.physicalName": field["name"]
            }  # fmt: skip
        action["schemaString"] = json.dumps(schema)
        action["configuration"] = {"delta.columnMapping.mode": "name"}


def cloned(kind, action):
    if kind == "add":
        action["path"] = f"s3://elsewhere/{action['path']}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (deleted, "with deletionVectors, so its files alone"),
        (renamed, "with columnMapping, so its files alone"),
        (features("variantType"), "with variantType, so its"),
        (features("fromTheFuture"), "whose log cannot be read: .*fromTheFuture"),
        (cloned, "with files outside its folder, such as s3://elsewhere/"),
    ],
)
def test_what_plain_reading_would_get_wrong_is_refused(lake, change, says):
    rewritten(lake, change)
    with pytest.raises(InputError, match=f"lake' is a Delta table.*{says}") as caught:
        find_shards([str(lake)])
    assert "\n" not in str(caught.value)


def test_features_that_change_no_rows_are_read(lake):
    rewritten(lake, features("deletionVectors", "v2Checkpoint", "timestampNtz"))
    assert ids(lake) == list(range(12))


def test_a_log_that_is_spoiled(lake):
    rewritten(lake, lambda *_: None)
    (lake / FIRST).write_text("{spoiled")
    with pytest.raises(
        InputError, match="whose log cannot be read: .*; repair the table"
    ) as caught:
        find_shards([str(lake)])
    assert "\n" not in str(caught.value)


def test_without_the_package(lake, monkeypatch):
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(InputError, match=r"Delta table.*pip install 'fastbert-ray\[delta\]'"):
        find_shards([str(lake.parent)])


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("metadata/v3.metadata.json", "an Iceberg table"),
        ("metadata/00002-9f.gz.metadata.json", "an Iceberg table"),
        (".hoodie/hoodie.properties", "a Hudi table"),
    ],
)
def test_tables_of_other_formats_are_refused(tmp_path, log, kind):
    shard = write_shard(tmp_path / "lake" / "data" / "dt=1" / "a.parquet", ["the red river"])
    (tmp_path / "lake" / log).parent.mkdir()
    (tmp_path / "lake" / log).touch()
    for url in (tmp_path / "lake", tmp_path, shard, shard.parent, f"{tmp_path}/*/data/*/*.parquet"):
        with pytest.raises(InputError, match=f"lake' is {kind}.*write its rows to a folder"):
            find_shards([str(url)])


def test_a_folder_of_metadata_is_no_table(tmp_path):
    write_shard(tmp_path / "a.parquet", ["the red river"])
    write_shard(tmp_path / "metadata" / "b.parquet", ["the red river"])
    (tmp_path / "metadata" / "columns.metadata.json").touch()
    assert len(find_shards([str(tmp_path)])) == 2


def test_hidden_tables_are_passed_over(lake):
    lake.rename(lake.parent / "_lake")
    write_shard(lake.parent / "a.parquet", ["the red river"])
    (lake.parent / "_lake" / FIRST).write_text("{spoiled")
    assert ids(lake.parent) == [0]


def test_a_table_of_two_formats_is_read_as_delta(lake):
    """Delta writes Iceberg's metadata beside its own."""
    (lake / "metadata").mkdir()
    (lake / "metadata" / "v1.metadata.json").touch()
    assert ids(lake) == current(lake)
