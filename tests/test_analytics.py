"""Reports over committed output: numbers equal those of the rows."""

import json

import pytest
from conftest import RECIPE, write_shard
from test_stages import TEXTS, run

from fastbert.errors import InputError
from pipelines.analytics import EXITS, LABELS, RUNS, Analytics
from pipelines.commit import Commit
from pipelines.ledger import Ledger
from pipelines.report import report
from pipelines.settings import ReportSettings
from pipelines.shards import find_shards
from pipelines.storage import Storage


@pytest.fixture(scope="module")
def output(tmp_path_factory, checkpoint) -> str:
    """Two shards in two runs; the folder's name has a quote in it."""
    root = tmp_path_factory.mktemp("o'hara")
    for name in ("dt=1/a", "dt=2/b"):
        write_shard(root / "in" / f"{name}.parquet", TEXTS, label=["x"] * len(TEXTS))
    out = str(root / "out")
    ledger = Ledger(Storage(out))
    for night, shard in enumerate(find_shards([str(root / "in")]), start=1):
        commit = Commit(out, f"night-{night}", RECIPE, "speed 0.5")
        commit(run(shard, checkpoint, audit=0.5))
        ledger.close_run(f"night-{night}", {"rows": len(TEXTS)}, ledger.committed().records, set())
    return out


def test_exits_add_up_to_the_labelled_rows(output):
    analytics = Analytics(output)
    frame = analytics.query(EXITS)
    assert frame["rows"].sum() == 2 * (len(TEXTS) - 3)
    assert frame["percent"].sum() == pytest.approx(100, abs=0.2)
    by_stats = analytics.query(
        "select exit_layer, sum(rows)::bigint as rows from exits where exit_layer is not null "
        "group by exit_layer having sum(rows) > 0 order by exit_layer"
    )
    assert by_stats["rows"].tolist() == frame["rows"].tolist()


def test_every_row_is_in_the_statistics(output):
    analytics = Analytics(output)
    (total,) = analytics.query("select sum(rows)::bigint as n from exits")["n"]
    (rows,) = analytics.query("select count(*) as n from labels")["n"]
    (slices,) = analytics.query("select sum(rows)::bigint as n from slices")["n"]
    assert total == rows == slices == 2 * len(TEXTS)


def test_runs(output):
    frame = Analytics(output).query(RUNS)
    assert frame["run_id"].tolist() == ["night-1", "night-2"]
    assert frame["rows"].tolist() == [len(TEXTS)] * 2
    assert (
        frame["flops"].sum()
        == Analytics(output).query("select sum(flops)::bigint as n from labels")["n"].item()
    )


def test_labels_and_hive_folders(output):
    analytics = Analytics(output)
    assert analytics.query(LABELS)["rows"].sum() == 2 * (len(TEXTS) - 3)
    assert set(analytics.query("select distinct dt from labels")["dt"]) == {1, 2}


def test_report(output, capsys):
    summary = report(ReportSettings(output=output))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "exit layers" in printed.err
    assert "text is null" in printed.err
    assert json.loads(json.dumps(summary))["errors"] == [
        {"error": "text is empty", "rows": 4},
        {"error": "text is null", "rows": 2},
    ]


def test_sql(output):
    settings = ReportSettings(output=output, sql="select count(*) as n from labels")
    assert report(settings) == {"rows": [{"n": 2 * len(TEXTS)}]}


@pytest.mark.parametrize(
    "sql",
    [
        "select * from slices",
        "select * from runs",
        "select * from exits",
        "select date '2026-11-21' as dt",
    ],
)
def test_any_type_can_be_shown(output, sql):
    assert json.dumps(report(ReportSettings(output=output, sql=sql)), default=str)


def test_report_while_the_first_run_is_at_work(tmp_path, checkpoint):
    write_shard(tmp_path / "in" / "a.parquet", TEXTS)
    (shard,) = find_shards([str(tmp_path / "in")])
    out = str(tmp_path / "out")
    Commit(out, "night-1", RECIPE, "speed 0.5")(run(shard, checkpoint))
    summary = report(ReportSettings(output=out))
    assert summary["runs"] == []
    assert sum(row["rows"] for row in summary["exit_layers"]) == len(TEXTS) - 3


@pytest.mark.parametrize("sql", ["select nonsense from labels", "selec 1", "select * from other"])
def test_bad_sql(output, sql):
    with pytest.raises(InputError, match="the query failed"):
        Analytics(output).query(sql)


def test_no_output(tmp_path):
    with pytest.raises(InputError, match=r"no labels at.*jobs/label.py"):
        Analytics(str(tmp_path))
