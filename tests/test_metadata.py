"""What files say of their columns beside types is said of the labelled rows, too."""

import json
import struct

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.labelling import settings
from support.shards import random_texts
from support.stages import InProcess

from pipelines.input.metadata import kept
from pipelines.labelling.job import label

TEXTS = random_texts(23, seed=8)
POINT = struct.pack("<BIdd", 1, 1, 1.0, 2.0)
GEO = {
    "version": "1.1.0",
    "primary_column": "place",
    "columns": {
        "place": {"encoding": "WKB", "geometry_types": [], "covering": {"bbox": {}}},
        "text": {"encoding": "WKB", "geometry_types": []},
    },
}


@pytest.fixture
def night(tmp_path, checkpoint):
    """Labels `in` and gives the files of the output, by name."""
    (tmp_path / "in").mkdir()

    def run(**options):
        asked = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5, **options)
        assert label(asked, InProcess())["rows"] == len(TEXTS)
        return sorted((tmp_path / "out" / "table").iterdir())

    return run


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_an_index_of_pandas_is_one_still(tmp_path, night, ending):
    """Under its name, and with the types that Arrow does not know."""
    index = pd.MultiIndex.from_tuples([(f"row {k}", k % 3) for k in range(len(TEXTS))])
    frame = pd.DataFrame({"text": TEXTS, "label": range(len(TEXTS))}, index.set_names(["id", None]))
    frame["seen"] = pd.array([None, *range(1, len(TEXTS))], "Int64")
    table = pa.Table.from_pandas(frame)
    if ending == "parquet":
        pq.write_table(table, tmp_path / "in" / "a.parquet")
    else:
        with pa.ipc.new_file(tmp_path / "in" / "a.arrow", table.schema) as writer:
            writer.write_table(table)
    found = pd.concat(map(pd.read_parquet, night()))
    expected = frame.drop(columns="text").rename(columns={"label": "input_label"})
    pd.testing.assert_frame_equal(found[expected.columns], expected)
    assert found["label"].notna().all()


def test_a_range_of_the_whole_file_is_dropped(tmp_path, night):
    pd.DataFrame({"text": TEXTS, "n": range(23)}).to_parquet(tmp_path / "in" / "a.parquet")
    last = pd.read_parquet(night()[-1])
    assert last.index.tolist() == [0, 1, 2]
    assert last["n"].tolist() == [20, 21, 22]


def test_geometries_are_named(tmp_path, night):
    table = pa.table({"text": TEXTS, "place": [POINT] * len(TEXTS)})
    marked = table.replace_schema_metadata({"geo": json.dumps(GEO), "huggingface": "{}"})
    pq.write_table(marked, tmp_path / "in" / "a.parquet")
    for path in night():
        metadata = pq.read_schema(path).metadata
        assert json.loads(metadata[b"geo"]) == GEO | {
            "columns": {"place": {"encoding": "WKB", "geometry_types": []}}
        }
        assert b"huggingface" not in metadata
        assert metadata[b"fastbert.rows"]


def test_a_geometry_that_is_not_carried_is_not_named():
    named = {b"geo": json.dumps(GEO).encode()}
    assert kept(named, {"id": "id"}) == {}
    assert json.loads(kept(named, {"text": "x"})[b"geo"])["primary_column"] == "x"


@pytest.mark.parametrize("value", ["", "[]", "{}", "7", '{"columns": 3}', "[" * 100_000])
def test_what_cannot_be_read_is_dropped(value):
    assert kept({b"geo": value.encode(), b"pandas": value.encode()}, {"a": "a"}) == {}
    assert kept(None, {"a": "a"}) == {}
