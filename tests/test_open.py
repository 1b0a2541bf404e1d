"""`fastbert.open`: the labelled rows as pandas, Arrow, DuckDB and `datasets` have them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import ROOT
from support.labelling import settings
from support.models import save_checkpoint_of_questions
from support.shards import random_texts, write_shard
from support.stages import InProcess

import fastbert
from fastbert.errors import InputError
from pipelines.labelling.job import label

ROWS = 23
ODD = ("a[1]*", "dt=1/b", "day.parquet/c d", "dt=2/x=%20/#é", ".e'f/g", "_h/__i/j")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Answers to three questions, in folders and files with odd names; one has no rows."""
    root = tmp_path_factory.mktemp("o'hara 100%")
    save_checkpoint_of_questions(root / "model")
    for seed, name in enumerate(ODD):
        texts = [None, "", *random_texts(ROWS - 2, seed)]
        write_shard(root / "in" / f"{name}.parquet", texts, n=[seed, *[None] * (ROWS - 1)])
    write_shard(root / "in" / "none.parquet", [])
    inputs = tuple(f"{root / 'in' / name}.parquet" for name in (*ODD[:1], *ODD[4:]))
    hidden = settings(root / "in", root / "out", str(root / "model"), input=(str(root / "in"),))
    label(hidden, InProcess())
    for each in inputs[1:]:  # what is hidden has to be named
        asked = settings(root / "in", root / "out", str(root / "model"), input=(each,))
        label(asked, InProcess())
    return root / "out"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def truth(output: Path) -> pa.Table:
    """The slow reference: every file by itself, in the order of names."""
    files = sorted(os.fsencode(path) for path in (output / "table").rglob("*.[0-9]*.parquet"))
    tables = [pq.read_table(os.fsdecode(file), partitioning=None) for file in files
              if Path(os.fsdecode(file)).is_file()]  # fmt: skip
    return pa.concat_tables(
        [table.replace_schema_metadata() for table in tables], promote_options="permissive"
    )


def rows_of(table: pa.Table) -> list[dict]:
    return table.to_pylist()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_has_the_rows_of_the_files(made, streaming):
    expected = truth(made)
    assert expected.num_rows == len(ODD) * ROWS
    assert {"animal_label", "tags_labels", "tags_label_scores", "grade_value"} <= {
        *expected.column_names
    }
    found = fastbert.open(str(made)).dataset(streaming=streaming)
    assert found.column_names == expected.column_names
    assert list(found) == rows_of(expected)


def test_a_data_set_is_mapped_and_not_read(made):
    found = fastbert.open(str(made)).dataset()
    assert isinstance(found, datasets.Dataset)
    assert found.cache_files
    assert isinstance(fastbert.open(str(made)).dataset(streaming=True), datasets.IterableDataset)


@pytest.fixture
def output(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.mark.parametrize("streaming", [False, True])
def test_other_files_are_left_out(output, streaming, caplog):
    expected = truth(output)
    pq.write_table(pa.table({"x": [1]}), output / "table" / "mine.parquet")
    (output / "table" / "dt=1" / "damaged.parquet").touch()
    found = fastbert.open(str(output))
    assert list(found.dataset(streaming=streaming)) == rows_of(expected)
    assert "2 Parquet files below table/ are not of this job" in caplog.text


def test_rows_that_are_labelled_again_are_seen(output):
    before = fastbert.open(str(output)).dataset()
    (file,) = output.glob("table/dt=1/b.000000000000.parquet")
    table = pq.read_table(file, partitioning=None)
    new = pa.array(range(1000, 1000 + len(table)))
    os.utime(file, (1, 1))
    pq.write_table(table.set_column(table.schema.get_field_index("id"), "id", new), file)
    after = fastbert.open(str(output)).dataset()
    assert list(after) == rows_of(truth(output)) != list(before)


def test_files_of_other_columns_and_types(tmp_path):
    """A column that a file lacks is null there; each type holds the values of all."""
    folder = tmp_path / "out" / "table"
    folder.mkdir(parents=True)
    parts = [
        pa.table({"label": ["a"], "n": pa.array([1], pa.int32())}),
        pa.table({"label": pa.array([None], pa.null()), "n": [2**40], "s": [["x", None]]}),
        pa.table({"n": [0.5], "label": pa.array(["b"]).dictionary_encode()}),
    ]
    for place, part in enumerate(parts):
        pq.write_table(part, folder / f"{place}.000000000000.parquet")
    for streaming in (False, True):
        assert list(fastbert.open(str(tmp_path / "out")).dataset(streaming=streaming)) == [
            {"label": "a", "n": 1.0, "s": None},
            {"label": None, "n": 2.0**40, "s": ["x", None]},
            {"label": "b", "n": 0.5, "s": None},
        ]
    pq.write_table(pa.table({"n": ["one"]}), folder / "3.000000000000.parquet")
    with pytest.raises(InputError, match="no data set of Hugging Face's: .*n.*; read them"):
        fastbert.open(str(tmp_path / "out")).dataset()


@pytest.mark.parametrize("streaming", [False, True])
def test_an_output_of_no_rows(tmp_path, checkpoint, streaming):
    write_shard(tmp_path / "in" / "a.parquet", [])
    label(settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5), InProcess())
    labels = fastbert.open(str(tmp_path / "out"))
    assert list(labels.dataset(streaming=streaming)) == []
    assert "label" in labels.dataset(streaming=streaming).column_names
    assert labels.query("from rows").empty
    assert labels.connection.sql("from rows").fetchall() == []


def test_where_nothing_is(tmp_path):
    with pytest.raises(InputError, match="no labels at .*; expected the --output of fastbert"):
        fastbert.open(str(tmp_path))


def test_on_another_file_system(made):
    fsspec.filesystem("memory").put(f"{made}/table/dt=1/", "/labels/table/dt=1/", recursive=True)
    try:
        labels = fastbert.open("memory://labels")
        found = labels.dataset(streaming=True).select_columns(["id"])
        assert list(found) == [{"id": k} for k in range(ROWS)]
        assert len(labels.connection.sql("from rows").fetchall()) == ROWS
    finally:
        fsspec.filesystem("memory").rm("/labels", recursive=True)


def test_a_damaged_file_is_named(output):
    (output / "table" / "dt=1" / "b.000000000000.parquet").write_bytes(b"PAR1")
    labels = fastbert.open(str(output))
    with pytest.raises(InputError, match=r"dt=1/b\.0.*is gone or no Parquet; remove it"):
        labels.dataset()
    with pytest.raises(InputError, match="cannot be made.*if the file is damaged, remove it"):
        _ = labels.connection


def test_without_the_package(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"datasets, which is missing; pip install .*\[datasets\]"):
        fastbert.open(str(made)).dataset()


def test_pandas_and_arrow(made):
    labels, expected = fastbert.open(str(made)), truth(made)
    sql = "select id, grade_value, tags_labels, n from rows"
    order = [("grade_value", "ascending"), ("id", "ascending"), ("n", "ascending")]
    arrow = labels.arrow(sql)
    mine, theirs = (t.select(["id", "grade_value", "n"]).sort_by(order) for t in (arrow, expected))
    assert mine.to_pylist() == theirs.to_pylist()
    frame = labels.query(f"{sql} order by grade_value, id, n")
    assert isinstance(frame, pd.DataFrame)
    np.testing.assert_array_equal(
        frame["grade_value"].dropna(), expected["grade_value"].drop_null().sort().to_numpy()
    )


def test_the_connection_has_all_views_at_once(made):
    connection = fastbert.open(str(made)).connection
    rows = connection.sql("select count(*) as n, count(distinct dt) as days from rows")
    assert rows.fetchall() == [(len(ODD) * ROWS, 2)]
    assert connection.sql("select sum(rows)::int from slices").fetchall() == [(len(ODD) * ROWS,)]
    assert (
        connection.sql("select count(*) from exits join runs using (run_id)").fetchall()[0][0] > 0
    )


def test_a_callers_frames_can_be_joined(made):
    connection = fastbert.open(str(made)).connection
    ids = pd.DataFrame({"id": [3, 4]})
    found = connection.sql("select count(*) from rows join ids using (id)").fetchall()
    assert found == [(2 * len(ODD),)]
    assert len(ids) == 2


def test_importing_is_light_and_the_names_are_lazy():
    script = """
import sys, fastbert
heavy = {"torch", "transformers", "duckdb", "pandas", "pyarrow", "datasets", "pipelines"}
assert not heavy & {*sys.modules}, heavy & {*sys.modules}
assert {"open", "load", "Engine"} <= {*dir(fastbert)}
fastbert.open
assert not {"torch", "transformers", "datasets"} & {*sys.modules}
fastbert.load
assert "torch" in sys.modules and open is not fastbert.open
try:
    fastbert.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "module 'fastbert' has no attribute 'nothing'\n"
