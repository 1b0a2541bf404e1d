"""Reports over committed output: numbers equal those of the rows."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import fsspec
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support.records import end_run, record
from support.shards import write_shard
from support.stages import TEXTS, a_run, run

from fastbert.errors import InputError
from pipelines.input.shards import find_shards
from pipelines.labelling.commit import Commit
from pipelines.labelling.summary import Tally, totals
from pipelines.output.committed import COMMITS
from pipelines.output.ledger import Ledger
from pipelines.output.manifests import rows_of
from pipelines.output.storage import Storage
from pipelines.reports import analytics, questions
from pipelines.reports.job import report
from pipelines.reports.terminal import show
from pipelines.settings import ReportSettings

GOOD = len(TEXTS) - 3
ALL = 2 * len(TEXTS)  # rows of `output`


@pytest.fixture(scope="module")
def output(tmp_path_factory, checkpoint) -> str:
    """Two shards in two runs; the folder's name has a quote in it."""
    root = tmp_path_factory.mktemp("o'hara")
    for name in ("dt=1/a", "dt=2/b"):
        write_shard(root / "in" / f"{name}.parquet", TEXTS, label=["x"] * len(TEXTS))
    out = str(root / "out")
    for night, shard in enumerate(find_shards([str(root / "in")]), start=1):
        label(out, f"night-{night}", shard, checkpoint)
    return out


def label(out: str, night: str, shard, checkpoint, close: bool = True) -> None:
    """A run that labels one shard."""
    ledger = Ledger(Storage(out))
    record = Commit(a_run(output=out, run_id=night))(
        run(shard, checkpoint, thresholds=(0.4, 0.4), audit=0.5)
    )
    if close:
        summary = {"run_id": night, "started_at": f"2026-11-2{night[-1]}T01:00:00.000+00:00"}
        end_run(ledger, night, [record], summary | totals(Tally([record])))


def scan(output: str) -> duckdb.DuckDBPyConnection:
    """The labelled rows as any reader sees them, without this project's code."""
    connection = duckdb.connect()
    files = f"{output}/table/**/*.parquet".replace("'", "''")
    connection.execute(f"create view answers as select * from read_parquet('{files}')")
    return connection


def test_statistics_say_of_exits_what_the_rows_say(output):
    frame = analytics.open(output).query(questions.EXIT_LAYERS)
    truth = scan(output).sql(
        "select exit_layer, count(*), round(sum(flops) / count(*) / 1e6, 1), count(audit_label), "
        "round(100.0 * avg((audit_label = label)::int), 2) from answers where error is null "
        "group by exit_layer order by exit_layer"
    )
    some = frame[frame["rows"] > 0]
    names = ["layer", "rows", "mflops_per_row", "audited", "audit_agreement_percent"]
    found = [tuple(row) for row in some[names].astype(object).to_numpy()]
    assert pd.DataFrame(found).equals(pd.DataFrame(truth.fetchall()))
    assert frame["percent"].sum() == pytest.approx(100, abs=0.2)


def test_statistics_say_of_labels_what_the_rows_say(output):
    frame = analytics.open(output).query(questions.LABELS)
    truth = scan(output).sql(
        "select label, count(*), round(avg(exit_layer), 2) from answers where error is null "
        "group by label order by count(*) desc, label"
    )
    assert [tuple(r) for r in frame[["label", "rows", "mean_layer"]].values] == truth.fetchall()


def test_statistics_say_of_uncertainties_what_the_rows_say(output):
    frame = analytics.open(output).query(questions.UNCERTAINTY)
    truth = scan(output).sql(
        "select exit_layer, least(floor(uncertainty * 20), 19)::int, count(*) from answers "
        "where error is null group by all order by all"
    )
    bins = (frame["from_uncertainty"] * 20).round().astype(int)
    assert list(zip(frame["layer"], bins, frame["rows"], strict=True)) == truth.fetchall()


def test_views_agree_about_totals(output):
    found = analytics.open(output)
    totals_of = {
        view: tuple(
            found.query(f"select sum({rows})::bigint, sum(flops)::bigint from {view}").loc[0]
        )
        for view, rows in {"rows": "1", "slices": "rows", "exits": "rows", "runs": "rows"}.items()
    }
    assert len(set(totals_of.values())) == 1, totals_of
    assert totals_of["rows"][0] == 2 * len(TEXTS)


def test_errors(output):
    frame = analytics.open(output).query(questions.ERRORS)
    assert frame.to_dict("records") == [
        {"error": "text is empty", "rows": 4},
        {"error": "text is null", "rows": 2},
    ]


def test_rows_that_were_labelled_again_count_once(tmp_path, checkpoint):
    write_shard(tmp_path / "in" / "a.parquet", TEXTS)
    (shard,) = find_shards([str(tmp_path / "in")])
    out = str(tmp_path / "out")
    for night in ("night-1", "night-2"):
        label(out, night, shard, checkpoint)
    found = analytics.open(out)
    assert found.query(questions.EXIT_LAYERS)["rows"].sum() == GOOD
    assert found.query(questions.LABELS)["rows"].sum() == GOOD
    assert found.query("select run_id, rows from slices").values.tolist() == [
        ["night-2", len(TEXTS)]
    ]
    assert found.query("select sum(rows) as n from exits")["n"].item() == 2 * len(TEXTS)
    assert found.query(questions.RUNS)["rows"].tolist() == [len(TEXTS)] * 2


def test_rows_that_were_removed_count_no_more(tmp_path, checkpoint):
    for name in ("a", "b"):
        write_shard(tmp_path / "in" / f"{name}.parquet", TEXTS)
    out = str(tmp_path / "out")
    for shard in find_shards([str(tmp_path / "in")]):
        label(out, "night-1", shard, checkpoint)
    ledger = Ledger(Storage(out))
    commits = ledger.committed().commits
    ledger.forget(commits.filter(pc.equal(commits["shard"], "a")))
    found = analytics.open(out)
    assert found.query(questions.EXIT_LAYERS)["rows"].sum() == GOOD
    assert found.query("from slices")["shard"].tolist() == ["b"]


def test_a_run_at_work_counts_as_far_as_it_is(tmp_path, checkpoint):
    for name in ("a", "b"):
        write_shard(tmp_path / "in" / f"{name}.parquet", TEXTS)
    out = str(tmp_path / "out")
    first, second = find_shards([str(tmp_path / "in")])
    label(out, "night-1", first, checkpoint)
    label(out, "night-2", second, checkpoint, close=False)
    summary = report(ReportSettings(output=out))
    assert [(run["run_id"], run["rows"]) for run in summary["runs"]] == [
        ("night-1", len(TEXTS)),
        ("night-2", len(TEXTS)),
    ]
    assert sum(row["rows"] for row in summary["exit_layers"]) == 2 * GOOD
    ended, at_work = summary["runs"]
    assert at_work["mean_layer"] == ended["mean_layer"] > 0
    costs = [(each["run_id"], each["rows"]) for each in summary["costs"]]
    assert costs == [("night-1", len(TEXTS)), ("night-2", len(TEXTS))]
    assert analytics.open(out).query("select finished from runs order by run_id")[
        "finished"
    ].tolist() == [True, False]


def test_statistics_of_earlier_versions(output, tmp_path):
    """They lack the newer columns: what they know is shown."""
    folder = tmp_path / "out"
    for file in ("table/a.000000000000.parquet", "stats/night-1.parquet"):
        (folder / file).parent.mkdir(parents=True)
    found = analytics.open(output)
    old = found.arrow("select * exclude (labels, uncertainties, audit_rows, audit_agreements, "
                      "errors, path, current) replace ('a' as shard, committed_at::varchar as "
                      "committed_at) from exits where run_id = 'night-1'")  # fmt: skip
    pq.write_table(old, folder / "stats/night-1.parquet")
    pq.write_table(found.arrow("from rows"), folder / "table/a.000000000000.parquet")
    summary = report(ReportSettings(output=str(folder)))
    assert sum(row["rows"] for row in summary["exit_layers"]) == GOOD
    assert summary["labels"] == []


def test_hive_folders_are_columns(output):
    assert set(analytics.open(output).query("select distinct dt from rows")["dt"]) == {1, 2}


def test_folders_that_are_called_like_files(tmp_path, checkpoint):
    """Spark calls its tables so."""
    write_shard(tmp_path / "in" / "day.parquet" / "part-[0].parquet", TEXTS)
    out = str(tmp_path / "out")
    label(out, "night-1", *find_shards([str(tmp_path / "in")]), checkpoint)
    fsspec.filesystem("memory").put(f"{out}/", "/spark/out/", recursive=True)
    for url in (out, "memory://spark/out"):
        rows = analytics.open(url).query("select count(*) as n from rows")["n"]
        assert rows.tolist() == [len(TEXTS)]


def test_only_the_table_is_scanned_that_a_query_names(output, monkeypatch):
    monkeypatch.setattr(
        analytics.Analytics, "_make_rows", lambda _: pytest.fail("the table was opened")
    )
    assert report(ReportSettings(output=output))["labels"]


@pytest.mark.parametrize(
    ("sql", "value", "made"),
    [
        ("with rows as (select 1 as a) select count(*) from rows", 1, set()),
        ("with slices as (from slices limit 1) select count(*) from slices", 1, {"slices"}),
        ('select count(*) from "Rows"', ALL, {"rows"}),
        ("select 1 where 'night-2' in (select run_id from (from main.runs))", 1, {"runs"}),
        ("select length('from rows')", 9, set()),
        ("select count(*) from exits join runs using (run_id) where finished", 8, {"runs"}),
        ("create view a as select rows as b from slices; select sum(b) from a", ALL, {"slices"}),
        ("select count(*) from rows left join slices using (tokens)", ALL, {"rows", "slices"}),
        ("create table c as from rows; select count(*) from (pivot c on label)", ALL, {"rows"}),
    ],
)
def test_a_query_finds_the_views_that_it_names(output, sql, value, made):
    """Wherever it names them; `rows`, which is the whole table, is opened for these only."""
    found = analytics.open(output)
    assert found.query(sql).iloc[0, 0] == value
    assert made <= found._made
    assert ("rows" in found._made) == ("rows" in made)


def test_accuracy_by_layer(output):
    summary = report(ReportSettings(output=output, truth_column="input_label"))
    assert sum(row["rows"] for row in summary["accuracy"]) == 2 * GOOD
    assert {row["accuracy_percent"] for row in summary["accuracy"]} == {0.0}  # all of them "x"


def test_report(output, capsys):
    summary = report(ReportSettings(output=output))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "exit layers" in printed.err
    assert "text is null" in printed.err
    assert json.loads(json.dumps(summary, default=str))["errors"] == [
        {"error": "text is empty", "rows": 4},
        {"error": "text is null", "rows": 2},
    ]


def test_sql(output):
    settings = ReportSettings(output=output, sql="select count(*) as n from rows")
    assert report(settings) == {"rows": [{"n": 2 * len(TEXTS)}]}


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_saved_results_are_those_of_the_query(output, tmp_path, suffix):
    target = str(tmp_path / f"it's.{suffix}")
    sql = "select label, count(*) as n from rows where error is null group by label order by n"
    settings = ReportSettings(output=output, sql=sql, save=target)
    found = analytics.open(output).query(sql)
    assert report(settings)["rows"] == len(found)
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}.get(
        suffix, lambda path: pd.read_json(path, lines=True)
    )
    assert read(target).to_dict("records") == found.to_dict("records")


def test_saving_elsewhere(output):
    """On a file system of fsspec's."""
    found = analytics.open(output)
    found.save("select 1 as one", "memory://reports/one.csv")
    assert found.query("from 'memory://reports/one.csv'")["one"].tolist() == [1]


@pytest.mark.parametrize(
    "sql",
    [
        "select * from slices",
        "select * from runs",
        "select * from exits",
        "select * from rows",
        "summarize slices",
        "with mine as (select * from runs) select * from mine join exits using (run_id)",
        "select date '2026-11-21' as dt",
    ],
)
def test_any_type_can_be_shown(output, sql):
    assert json.dumps(report(ReportSettings(output=output, sql=sql)), default=str)


@pytest.mark.parametrize(
    "sql",
    [
        *("select nonsense from rows", "selec 1", "select * from other"),
        *("create table rows(a int)", "create view rows as select 1; from rows"),
        *("create view mine as from other", "select nonsense(label) from rows"),
    ],
)
def test_bad_sql(output, sql):
    found = analytics.open(output)
    found.query("from rows limit 1")
    with pytest.raises(InputError, match="the query failed"):
        found.query(sql)


def test_tables_of_ones_own(output):
    found = analytics.open(output)
    found.query("create table mine as select 1 as one")
    assert found.query("create view yours as from mine").empty
    assert found.query("from mine")["one"].tolist() == [1]


def test_bad_targets(output, tmp_path):
    found = analytics.open(output)
    with pytest.raises(InputError, match=r"end in one of \.csv"):
        found.save("select 1", str(tmp_path / "a.xlsx"))
    with pytest.raises(InputError, match="cannot write"):
        found.save("select 1", str(tmp_path / "nowhere" / "a.csv"))


def test_saving_beside_an_output_on_the_same_store(output):
    """DuckDB takes each file system once."""
    fs = fsspec.filesystem("memory")
    fs.put(f"{output}/", "/lake/out/", recursive=True)
    found = analytics.open("memory://lake/out")
    for name in ("a.csv", "b.csv"):
        found.save("select count(*) as n from slices", f"memory://lake/{name}")
    assert fs.cat_file("/lake/b.csv") == b"n\n2\n"


def test_texts_of_the_data_are_not_markup(capsys):
    frame = pd.DataFrame({"[b]label": ["[/b] closing", "[spam]"], "rows": [2, 1]})
    show(Console(file=sys.stderr, width=100), "[i]", frame)
    printed = capsys.readouterr().err
    assert "[/b] closing" in printed
    assert "[spam]" in printed


def test_folders_named_like_our_columns_do_not_hide_them(tmp_path, checkpoint):
    write_shard(tmp_path / "in" / "label=x" / "a.parquet", TEXTS)
    (shard,) = find_shards([str(tmp_path / "in")])
    out = str(tmp_path / "run_id=5" / "out")
    label(out, "night-1", shard, checkpoint)
    found = analytics.open(out)
    assert "x" not in set(found.query("from rows")["label"])
    assert found.query("from slices")["run_id"].tolist() == ["night-1"]


def test_of_a_file_without_a_record_the_last_run_counts_whatever_its_nodes_clocks_say(tmp_path):
    ledger = Ledger(Storage(str(tmp_path)))
    ledger.storage.put(record().path, b"")
    for night, at, exits in (("b", "T09:00", [5, 3, 1]), ("a", "T08:59", [0, 0, 9])):
        mine = record(run_id=night, exits=exits, committed_at=f"2026-11-22{at}:00.000+00:00")
        began = {"b": "01", "a": "02"}[night]
        began = {"started_at": f"2026-11-{began}T00:00:00+00:00"}
        ledger.close_run(night, began, COMMITS.empty_table(), rows_of([mine]), set())
    assert analytics.open(str(tmp_path)).query("from slices")["exits"][0].tolist() == [0, 0, 9]


def test_errors_without_a_counted_reason_are_counted(tmp_path):
    ledger = Ledger(Storage(str(tmp_path)))
    mine = record(rows=109, error_rows=100, errors={f"reason {i}": 1 for i in range(20)})
    ledger.storage.put(mine.path, b"")
    end_run(ledger, "night-1", [mine])
    frame = analytics.open(str(tmp_path)).query(questions.ERRORS)
    assert frame["rows"].sum() == 100
    assert frame.iloc[-1].tolist() == ["(other reasons)", 80]


def test_more_flops_than_64_bits_hold(tmp_path):
    ledger = Ledger(Storage(str(tmp_path)))
    records = [record(f"s{i}", exit_flops=[2**62, 0, 0], full_flops=2**62) for i in range(3)]
    for each in records:
        ledger.storage.put(each.path, b"")
        ledger.put(each)
    assert report(ReportSettings(output=str(tmp_path)))["runs"]  # at work
    end_run(ledger, "night-1", records, totals(Tally(records)))
    found = analytics.open(str(tmp_path)).arrow("select flops from runs")
    assert found["flops"].to_pylist() == [3 * 2**62]


def test_summaries_that_cannot_be_read(output, tmp_path):
    shutil.copytree(output, tmp_path / "out")
    folder = tmp_path / "out" / "ledger" / "runs"
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"rows": "many"}')):
        (folder / f"{name}.json").write_text(text)
    (folder / "copy.json").write_text((folder / "night-1.json").read_text())
    runs = analytics.open(str(tmp_path / "out")).query("from runs")
    assert sorted(runs["run_id"]) == ["copy", "night-1", "night-2"]


def test_a_view_that_failed_is_made_when_it_can_be(output, monkeypatch):
    found = analytics.open(output)

    def fail(_: list[str]) -> None:
        raise InputError("not now")

    monkeypatch.setattr(found.storage, "read", fail)
    with pytest.raises(InputError, match="not now"):
        found.query("from runs")
    monkeypatch.undo()
    assert len(found.query("from runs")) == 2


def test_each_statement_is_run_once(output):
    found = analytics.open(output)
    sql = "create table mine as select 1 as one; insert into mine values (2); from mine, slices"
    assert len(found.query(sql)) == 2 * 2


@pytest.mark.parametrize("name", ["label", "Score", "exit_layer"])
def test_the_models_own_answers_are_no_truth(output, name):
    with pytest.raises(InputError, match=f"carried as input_{name}"):
        report(ReportSettings(output=output, truth_column=name))


def test_the_least_certain_rows_have_their_texts(output, tmp_path, capsys):
    corpus = Path(output).parent / "in"
    asked = ReportSettings(output=output, least_certain=5, text_from=(str(corpus),))
    rows = analytics.open(output).query("from rows where label is not null")
    surest = rows.sort_values("uncertainty", ascending=False, kind="stable")["uncertainty"][:5]
    found = report(asked)["least_certain"]
    assert [row["uncertainty"] for row in found] == pytest.approx(surest.tolist(), abs=1e-4)
    for row in found:
        texts = pq.read_table(corpus / f"{row['shard']}.parquet")["text"].to_pylist()
        assert texts[row["row"]].startswith(row["text"].removesuffix(" …"))
    said, hint = capsys.readouterr().err, "--text-from INPUT shows their texts."
    assert found[0]["text"][:40] in said
    assert hint not in said
    page = ReportSettings(output=output, least_certain=2, html=str(tmp_path / "r.html"), title="My")
    report(replace(page, text_from=(str(corpus),)))
    html = (tmp_path / "r.html").read_text()
    assert found[0]["text"] in html
    assert "<title>My</title>" in html
    other = tmp_path / "other"
    write_shard(other / f"{found[0]['shard']}.parquet", ["changed"] * 99)
    told = report(replace(asked, text_from=(str(other),)))["least_certain"]
    assert told[0]["text"] == "(its shard has changed since)"
    assert "text" not in report(replace(asked, text_from=()))["least_certain"][0]
    assert hint in capsys.readouterr().err


def test_a_page_that_cannot_be_written(output, tmp_path):
    with pytest.raises(InputError, match="is a folder; pass a file"):
        report(ReportSettings(output=output, html=str(tmp_path)))


def test_settings_that_exclude_each_other(output):
    settings = ReportSettings(output=output)
    for changes in ({"save": "a.csv"}, {"sql": "select 1", "html": "a.html"}):
        with pytest.raises(InputError):
            replace(settings, **changes)


def test_no_output(tmp_path):
    with pytest.raises(InputError, match=r"no labels at.*fastbert label"):
        analytics.open(str(tmp_path))
