"""Ids and answers alone, and the documented ways to join them with a corpus."""

import json
import re

import duckdb
import pyarrow as pa
import pytest
from support import ROOT
from support.formats import ENCODED
from support.labelling import settings
from support.shards import random_texts
from support.stages import InProcess

from fastbert.errors import InputError
from pipelines.labelling.job import label
from pipelines.settings import LabelSettings

TEXTS = random_texts(30, seed=8)
PAGE = (ROOT / "docs" / "formats.md").read_text()


@pytest.fixture
def labelled(tmp_path, checkpoint, monkeypatch):
    """`corpus/docs/` and, beside it, `answers`, as the page has them."""
    folder = tmp_path / "corpus" / "docs"
    folder.mkdir(parents=True)
    rows = ({"id": f"row-{k}", "text": text, "year": k} for k, text in enumerate(TEXTS))
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    options = {"id_column": "id", "no_carry": True, "speed": 0.5, "slice_rows": 7}
    assert label(settings(folder, tmp_path / "answers", checkpoint, **options), InProcess())["rows"]


def test_ids_and_answers_alone(labelled):
    found = duckdb.sql("from 'answers/table/**/*.parquet'")
    assert found.columns[:3] == ["id", "label", "score"]
    assert not {"text", "year"} & set(found.columns)
    assert len(found) == len(TEXTS)


def test_the_query_of_the_page(labelled):
    (sql,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    assert duckdb.sql(sql).columns == ["id", "text", "label", "score"]
    joined = sql.partition("where")[0]
    texts = dict(duckdb.sql(f"select id, text from ({joined})").fetchall())
    assert texts == {f"row-{k}": text for k, text in enumerate(TEXTS)}


@pytest.mark.parametrize("library", ["pandas", "datasets"])
def test_the_code_of_the_page(labelled, library):
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if library in c)
    found: dict = {}
    exec(code, found)
    joined = found["joined"]
    assert list(joined["id"]) == [f"row-{k}" for k in range(len(TEXTS))]
    assert list(joined["text"]) == TEXTS
    assert set(joined["label"]) <= {"ape", "bee", "cow", "dog", "eel"}


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_shard_without_the_id_is_passed_over(tmp_path, checkpoint, ending):
    """Also where all columns are carried."""
    for name, columns in (("a", {"id": [*range(30)]}), ("b", {"ID": [*range(30)]})):
        table = pa.table({"text": TEXTS} | columns)
        path = tmp_path / "in" / f"{name}.{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(ENCODED[f"x.{ending}"](table))
    asked = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5, id_column="id")
    found = label(asked, InProcess())
    assert (found["rows"], found["exit_code"]) == (30, 3)
    ((url, why),) = found["bad_shards"].items()
    assert url.endswith(f"b.{ending}")
    assert "has no column 'id'; its columns are" in why
    assert "--id-column" in why


def test_nothing_and_something_exclude_each_other():
    common = {"input": ("x",), "output": "y", "model": "z"}
    with pytest.raises(InputError, match="--carry and --no-carry exclude each other"):
        LabelSettings(**common, carry=("id",), no_carry=True)
    assert LabelSettings(**common).carried is None
    assert LabelSettings(**common, no_carry=True).carried == ()
    assert LabelSettings(**common, id_column="id", carry=("a",)).carried == ("id", "a")
