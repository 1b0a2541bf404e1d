"""What no filter should do."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.formats import ENCODED
from support.labelling import settings
from support.stages import InProcess

from fastbert.errors import FastBertError, InputError
from filter.corpus import files, keep
from pipelines.filter.kept import LIST
from pipelines.labelling.job import label

PLACES = {
    "in/kept": "lies inside --input",
    "in": "lies inside --input",
    "out/kept": "lies inside --output",
    "out/table/dt=1": "lies inside --output",
    ".": "lies inside --input .*, or around it",
}


@pytest.mark.parametrize("place", PLACES)
def test_places_in_each_others_way_are_refused(world, place):
    before = files(world)
    with pytest.raises(InputError, match=PLACES[place]):
        keep(world, kept=str(world / place))
    assert files(world) == before


def test_places_that_a_glob_asks_for_are_refused(world):
    glob = f"{world}/i*/**/*"
    with pytest.raises(InputError, match=r"--kept .*/ikept lies inside --input .*/i\*/"):
        keep(world, input=(glob,), kept=str(world / "ikept"))


def test_folders_of_others_are_refused(world):
    (world / "kept").mkdir()
    (world / "kept" / "a.parquet").touch()
    with pytest.raises(InputError, match=r"a folder with other files, as a\.parquet; expected"):
        keep(world)
    for bad in ("{", '{"files": ["../in/d.jsonl"]}', "[]"):
        (world / "kept" / LIST).write_text(bad)
        with pytest.raises(InputError, match="_kept.json that cannot be read"):
            keep(world)
    assert (world / "in" / "d.jsonl").exists()


BAD = {
    "nothing > 3": "Referenced column .nothing. not found.*their columns are .*exit_layer, ",
    "quality >=": "Parser Error",
    "count(*) > 3": "aggregate",
    "row_number() over () = 1": "window",
    "label in (from settings)": "settings does not exist",
    "true; select 1": "Parser Error",
}


@pytest.mark.parametrize("where", BAD)
def test_what_is_no_condition_is_refused(world, where):
    with pytest.raises(InputError, match=f"(?i)--where fails: .*{BAD[where]}"):
        keep(world, where)
    assert not (world / "kept").exists()


def test_a_condition_that_fails_on_a_value_says_so(world):
    with pytest.raises(FastBertError, match=r"--where fails on a row of table/.*as with try_cast"):
        keep(world, "label::int > 3")
    keep(world, "try_cast(label as int) is null")


def test_a_condition_that_is_true_of_no_row_says_which_labels_there_are(world, caplog):
    assert keep(world, "label = 'Billing'")["kept_rows"] == 0
    assert "the condition label = 'Billing' is true of no row; the labels are bee" in caplog.text


def test_other_refusals(world):
    with pytest.raises(InputError, match=r"--carry is 'quality', which labelled rows do not have"):
        keep(world, carry=("quality",))
    with pytest.raises(InputError, match="on the Hugging Face hub"):
        keep(world, kept="hf://datasets/a/b")
    with pytest.raises(InputError, match="no file of --input has its labels .*has no labels"):
        keep(world, input=(str(world / "in" / "dt=1"),))


def test_two_files_that_would_be_kept_as_one_are_refused(tmp_path, checkpoint):
    for name in ("a.parquet", "a.csv"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(ENCODED["x." + name[2:]](pa.table({"text": ["the red river"]})))
    label(settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5), InProcess())
    with pytest.raises(InputError, match=r"would both be kept as a\.parquet; rename one"):
        keep(tmp_path)


def test_a_carried_column_that_the_input_has_itself(tmp_path, checkpoint):
    (tmp_path / "in").mkdir()
    for name, column in (("a.parquet", "Score"), ("b.parquet", "x")):
        table = pa.table({"text": ["the red river"], column: [1]})
        (tmp_path / "in" / name).write_bytes(ENCODED["x.parquet"](table))
    label(settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5), InProcess())
    summary = keep(tmp_path, carry=("score",))
    assert [*summary["bad_shards"].values()] == [
        "has a column 'score' itself, which --carry would add; leave it out of --carry, or rename "
        "the input's"
    ]
    assert pq.read_schema(tmp_path / "kept" / "b.parquet").names == ["text", "x", "score"]
