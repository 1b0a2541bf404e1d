"""Reports and exports of outputs in which something else lies, or is damaged: never a traceback."""

import json
import logging
import os
import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from support.jobs import invoke, refused
from support.labelling import settings
from support.shards import random_texts, write_shard
from support.stages import InProcess

from fastbert.errors import InputError
from jobs.options import command
from pipelines.labelling.job import label
from pipelines.reports import analytics
from pipelines.reports.job import report
from pipelines.settings import ReportSettings

ROWS = 12
#: Of these folders, DuckDB's own hive columns cannot be made.
NAMES = ("dt=1/a", "b", "DT=2/source=x%20y/c", "dt=3/source=__HIVE_DEFAULT_PARTITION__/d")


@pytest.fixture(scope="module")
def made(tmp_path_factory, checkpoint) -> Path:
    """Folders of different depth, and true labels as pandas makes them where one is missing."""
    root = tmp_path_factory.mktemp("made")
    truth = [float(i % 2) for i in range(ROWS - 2)] + [float("nan"), None]
    for seed, name in enumerate(NAMES):
        write_shard(root / "in" / f"{name}.parquet", random_texts(ROWS, seed), truth=truth)
    label(settings(root / "in", root / "out", checkpoint, speed=0.5, slice_rows=99), InProcess())
    return root / "out"


@pytest.fixture
def output(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_folders_are_columns_wherever_files_lie_in_fewer(made):
    found = analytics.open(str(made))
    sql = "select dt, source, count(*) as n from rows group by all order by all nulls first"
    assert found.arrow(sql).to_pylist() == [
        {"dt": None, "source": None, "n": ROWS},
        {"dt": 1, "source": None, "n": ROWS},
        {"dt": 2, "source": "x y", "n": ROWS},
        {"dt": 3, "source": None, "n": ROWS},
    ]


def test_files_of_other_folders_are_not_read(made):
    """A filter on a folder skips files, as one on DuckDB's own hive columns does."""
    found = analytics.open(str(made))
    found.query("from rows limit 0")
    plan = found.connection.sql("explain select label from rows where dt = 2").fetchall()
    assert "Scanning Files: 1/4" in str(plan)


@pytest.mark.parametrize("column", ["source", "Source"])
def test_columns_hide_folders_and_it_is_said(tmp_path, checkpoint, column, caplog):
    for folder in ("source=web/dt=2026-11-26", "source=news/dt=2026-11-27"):
        write_shard(tmp_path / "in" / folder / "a.parquet", ["the red river"], **{column: ["cnn"]})
    label(settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5), InProcess())
    with caplog.at_level(logging.INFO):
        rows = analytics.open(str(tmp_path / "out")).arrow(
            "select source as source, dt::varchar as dt from rows"
        )
    assert sorted(rows["dt"].to_pylist()) == ["2026-11-26", "2026-11-27"]
    assert rows["source"].to_pylist() == ["cnn", "cnn"]
    assert "columns source of the files, which hide the folders source=" in caplog.text


def test_other_readers_need_the_table_only(made):
    """As docs/analytics.md says: pyarrow gives the folders, DuckDB without them."""
    assert ds.dataset(made / "table", partitioning="hive").count_rows() == len(NAMES) * ROWS
    sql = f"select count(*) from read_parquet('{made}/table/**/*.parquet', hive_partitioning=false)"
    assert duckdb.sql(sql).fetchall() == [(len(NAMES) * ROWS,)]


def test_true_labels_of_numbers(made, output, caplog):
    """1.0 is the class 1, as evaluate has it; rows without a truth are counted."""
    for file in output.glob("table/**/*.parquet"):  # the model's classes are numbers
        table = pq.read_table(file, partitioning=None)
        new = pa.array([str(i % 3) for i in range(len(table))])
        pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", new), file)
    with caplog.at_level(logging.INFO):
        accuracy = report(ReportSettings(output=str(output), truth_column="Truth"))["accuracy"]
    right = sum(row["rows"] * row["accuracy_percent"] / 100 for row in accuracy)
    expected = sum(
        label == str(int(truth))
        for file in output.glob("table/**/*.parquet")
        for label, truth in zip(*pq.read_table(file, columns=["label", "truth"], partitioning=None)
                                .to_pydict().values(), strict=True)
        if truth == truth and truth is not None
    )  # fmt: skip
    assert right == pytest.approx(expected, abs=0.01)
    assert f"{2 * len(NAMES)} rows have no true label in column 'Truth'" in caplog.text


def test_true_labels_that_the_model_never_gives_are_told(made, caplog):
    report(ReportSettings(output=str(made), truth_column="truth"))
    assert "true labels in column 'truth' never occur among the model's, such as '0'" in caplog.text


@pytest.mark.parametrize(
    ("column", "says"),
    [("topic", "the table has no column 'topic'"), ("tags", "'tags' is of type")],
)
def test_columns_that_are_no_truth(output, column, says):
    for file in output.glob("table/**/*.parquet"):
        table = pq.read_table(file, partitioning=None)
        pq.write_table(table.append_column("tags", pa.array([[1]] * len(table))), file)
    with pytest.raises(InputError, match=says):
        report(ReportSettings(output=str(output), truth_column=column))


def first(folder: Path) -> Path:
    return sorted(path for path in folder.rglob("*") if path.is_file())[0]


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(255 - byte for byte in data[4:300]) + data[300:])


def beside(output: Path) -> None:
    """Foreign files, in each folder."""
    odd = pa.table({"label": [{"a": 1}], "x": ["y"]})
    pq.write_table(odd, output / "table" / "x.parquet")
    (output / "table" / "y.parquet").touch()
    Path(os.fsdecode(bytes(output) + b"/table/\xff.000000000000.parquet")).touch()
    pq.write_table(odd, output / "stats" / "x.parquet")
    (output / "stats" / "link.parquet").symlink_to("nowhere")
    (output / "ledger" / "runs" / "x.json").write_text('{"started_at": "yesterday"}')
    (output / "ledger" / "runs" / "y.json").write_text('{"labels": [[1], 2]}')
    (output / "ledger" / "slices" / "x.json").write_text("[]")
    pq.write_table(odd, output / "ledger" / "manifests" / "x.parquet")
    (output / "ledger" / "lock.json").touch()


def spoiled(output: Path) -> None:
    """All that can be done without."""
    half(first(output / "stats"))
    first(output / "ledger" / "manifests").write_bytes(b"")
    first(output / "ledger" / "runs").write_bytes(b"\xff\xfe\0")


def no_ledger(output: Path) -> None:
    shutil.rmtree(output / "ledger")


DAMAGED = {
    "half": lambda out: half(first(out / "table")),
    "flipped": lambda out: flipped(first(out / "table")),
}
ASKED = [["report"], ["report", "--sql", "from rows"], ["export", "--delta", "{}/../delta"]]


def ask(output: Path) -> list[tuple[int, str]]:
    """Exit code and stderr of each command; tracebacks are raised."""
    answers = []
    for name, *options in ASKED:
        arguments = ["--output", str(output), *(each.format(output) for each in options)]
        found = CliRunner().invoke(command(name), arguments)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        answers.append((found.exit_code, found.stderr))
    return answers


@pytest.mark.parametrize("change", [beside, spoiled, no_ledger])
def test_what_is_not_needed_is_passed_over(output, change):
    change(output)
    found = analytics.open(str(output))
    assert found.query("select count(*) as n from rows")["n"].tolist() == [len(NAMES) * ROWS]
    for view in ("slices", "exits", "runs"):
        found.query(f"from {view}")
    assert [code for code, _ in ask(output)] == [0] * len(ASKED)


def test_statistics_that_cannot_be_read_are_made_up_for_from_the_ledger(output, caplog):
    half(first(output / "stats"))
    found = analytics.open(str(output)).query("select sum(rows)::bigint as n from slices")
    assert found["n"].tolist() == [len(NAMES) * ROWS]
    assert "ignoring the unreadable statistics stats/" in caplog.text


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_rows_are_one_line(output, name):
    DAMAGED[name](output)
    tables, rows, export = ask(output)
    assert tables[0] == 0  # statistics know enough
    for code, stderr in (rows, export):
        assert code == 2
        assert stderr[stderr.index("Error: ") :].count("\n") == 1
    assert "remove the file, run fastbert label" in export[1]


ODD_VALUES = """
    select timestamp 'infinity' as t, timestamp '290000-01-01 10:20' as u, 'inf'::double as x,
           'nan'::double as y, map {date '2026-11-26': 'nan'::double} as m, [1, null] as l
"""


def test_values_that_json_and_the_terminal_do_not_have(made):
    result = invoke("report", "--output", made, "--sql", ODD_VALUES)
    assert result.exit_code == 0
    assert "290000-01-01 10:20" in result.stderr

    def no(constant: str) -> None:
        raise AssertionError(constant)

    (row,) = json.loads(result.stdout, parse_constant=no)["rows"]
    assert (row["x"], row["y"], row["m"], row["l"]) == (None, None, {"2026-11-26": None}, [1, None])


def test_of_a_long_result_the_first_rows_are_shown(made):
    result = invoke("report", "--output", made, "--sql", "select 7 as seven from range(3000)")
    assert len(json.loads(result.stdout)["rows"]) == 3000
    assert 1_000 < len(result.stderr.splitlines()) < 1_100
    assert "the first 1,000 of 3,000 rows" in result.stderr


def test_folders_that_cannot_be_decoded_stay_as_they_are(tmp_path, checkpoint):
    for value in ("%ff", "a%20b"):
        write_shard(tmp_path / "in" / f"c={value}" / "a.parquet", ["the red river"])
    label(settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5), InProcess())
    rows = analytics.open(str(tmp_path / "out")).arrow("select c from rows order by c")
    assert rows["c"].to_pylist() == ["%ff", "a b"]


def test_an_export_into_a_folder_of_others_is_refused(made, tmp_path):
    """A Delta table in the input's folder would hide the input."""
    shard = write_shard(tmp_path / "in" / "a.parquet", ["the red river"])
    refused(invoke("export", "--output", made, "--delta", shard.parent), "with other files")
    assert os.listdir(shard.parent) == ["a.parquet"]


def test_a_value_that_delta_does_not_hold_is_one_line(output, tmp_path):
    for file in output.glob("table/**/*.parquet"):
        table = pq.read_table(file, partitioning=None)
        far = pa.array([2**30] * len(table), pa.date32())
        pq.write_table(table.append_column("far", far), file)
    result = invoke("export", "--output", output, "--delta", tmp_path / "delta")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: cannot write the Delta table")
