"""What the report says of each recipe, against a count of the table's files."""

import json
from collections import Counter
from contextlib import suppress

import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from support.jobs import invoke
from support.labelling import settings
from support.models import save_checkpoint_of_questions
from support.shards import random_texts, write_shard
from support.stages import InProcess

from fastbert.calibration.bounds import interval
from pipelines.labelling import job as jobs
from pipelines.labelling.job import label
from pipelines.output.lock import RunLock
from pipelines.reports import analytics, figures
from pipelines.reports.recipes import audited_nights, recipes


class Killed(InProcess):
    """Dies after two slices."""

    def run(self, *arguments):
        for number, outcome in enumerate(super().run(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield outcome


@pytest.fixture
def month(tmp_path, checkpoint, monkeypatch):
    """Four nights at one speed, of which the third is killed; then two at another one, and some
    shards are written again."""
    monkeypatch.setattr(jobs, "RunLock", lambda s, r: RunLock(s, r, settle=0))
    nights = [(0.5, "refuse"), (0.5, "refuse"), (0.5, "refuse"), (0.5, "refuse"), (0.7, "new"),
              (0.7, "refuse")]  # fmt: skip
    for night, (speed, on_change) in enumerate(nights):
        write_shard(tmp_path / "in" / f"{night}.parquet", random_texts(35, seed=night))
        if night == 5:
            write_shard(tmp_path / "in" / "0.parquet", random_texts(22, seed=10))
        asked = {"speed": speed, "on_change": on_change, "audit_rate": 0.4}
        places = tmp_path / "in", tmp_path / "out", checkpoint
        run = settings(*places, run_id=f"night-{night}", **asked)
        if night == 2:
            with pytest.raises(KeyboardInterrupt):
                label(run, Killed())
        else:
            label(run, InProcess())
    return tmp_path / "out"


def test_rows_and_audits_of_each_recipe(month):
    rows, audited = Counter(), Counter()
    for path in (month / "table").glob("*.parquet"):
        table = pq.read_table(path)
        speed = json.loads(table.schema.metadata[b"fastbert.thresholds"])[0]
        rows[speed] += table.num_rows - table["label"].null_count
        audited[speed] += table.num_rows - table["audit_label"].null_count
    found = recipes(analytics.open(str(month)))
    assert found["operating_point"].tolist() == ["speed 0.5", "speed 0.7"]
    assert found["rows"].tolist() == [rows[0.5], rows[0.7]]
    assert found["runs"].tolist() == [4, 2]
    # Those of the shard that was written again were audited, and are not in the table any more.
    assert found["audited"][0] > audited[0.5]
    assert found["audited"][1] == audited[0.7]
    for each in found.to_dict("records"):
        low, high = interval(each["agreed"], each["audited"], 0.95)
        assert each["lower_percent"] == pytest.approx(100 * low, abs=1e-3)
        assert each["upper_percent"] == pytest.approx(100 * high, abs=1e-3)
    runs = analytics.open(str(month)).query("select run_id, checkpoint, thresholds from runs")
    assert runs["checkpoint"].notna().all()  # of the killed run, too


def test_a_killed_run_of_several_questions_is_of_the_recipe_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "RunLock", lambda s, r: RunLock(s, r, settle=0))
    save_checkpoint_of_questions(model := tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    closer = json.loads(json.dumps(config["operating_points"]["all"]))
    closer["questions"]["grade"] |= {"criterion": "tolerance", "within": [1e-5]}
    config["operating_points"]["closer"] = closer
    farther = json.loads(json.dumps(closer))
    farther["questions"]["grade"]["within"] = [0.5]
    config["operating_points"]["farther"] = farther
    (model / "config.json").write_text(json.dumps(config))
    for night, (point, stage) in enumerate(
        [("closer", InProcess()), ("closer", Killed()), ("farther", InProcess())]
    ):
        for part in range(3):
            write_shard(tmp_path / "in" / f"{night}{part}.parquet", random_texts(9, seed=night))
        run = settings(tmp_path / "in", tmp_path / "out", str(model), run_id=f"night-{night}",
                       operating_point=point, on_change="new")  # fmt: skip
        with suppress(KeyboardInterrupt):
            label(run, stage)
    found = recipes(analytics.open(str(tmp_path / "out")))
    assert found["runs"].tolist() == [2, 1]
    assert found["rows"].tolist() == [54, 27]


def test_nights_add_up_within_a_recipe(month):
    found = audited_nights(analytics.open(str(month)))
    first = found[found["run_id"].isin(["night-0", "night-1", "night-3"])]
    assert first["all_audited"].tolist() == first["audited"].cumsum().tolist()
    other = found[found["run_id"].isin(["night-4", "night-5"])]
    assert other["all_audited"].tolist() == other["audited"].cumsum().tolist()
    assert (found["all_lower_percent"] <= found["all_agreement_percent"]).all()


def test_the_report_shows_recipes(month, tmp_path):
    page = tmp_path / "report.html"
    result = invoke("report", "--output", month, "--html", page)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["recipes"]) == 2
    assert "speed 0.7" in result.stderr
    assert "<h2>Recipes</h2>" in page.read_text()
    assert "all runs" in page.read_text()


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.2], [0.01, 0.3, 0.3]])
def test_lines_lie_within_their_plot(values):
    axes = Figure().subplots()
    starts = pd.date_range("2026-11-01", periods=len(values))
    frame = pd.DataFrame({"started_at": starts, "drift": values})
    figures.lines(axes, frame, values={"drift": "drift"}, unit="share of rows")
    low, high = axes.get_ylim()
    assert low < min(values) <= max(values) < high
