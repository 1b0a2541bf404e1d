"""Checkpoints and outputs that the code at 831b513 wrote are read, continued and reported.

`data/831b513/README.md` says what is there.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.jobs import invoke, refused
from support.records import committed
from support.shards import write_shard

import fastbert
from fastbert.checkpoint import fingerprint
from fastbert.configuration import load_config
from fastbert.exits.operating_point import OperatingPoint
from pipelines.output.ledger import Ledger
from pipelines.output.storage import Storage

DATA = Path(__file__).parent / "data" / "831b513"
CHECKPOINT = DATA / "checkpoint"
DEFAULT = "max-disagreement-0.01"
#: Where the corpus was, and when its shards were changed: both stand in the records.
PLACE, MODIFIED = "/data/news", 1_760_000_000
POINTS = {
    "speed 0": {"speed": 0.0},
    "speed 0.3": {"speed": 0.3},
    "speed 0.8": {"speed": 0.8},
    DEFAULT: {},
}


@pytest.fixture(scope="module")
def answers() -> pa.Table:
    return pq.read_table(DATA / "answers.parquet")


@pytest.fixture
def place(tmp_path) -> Path:
    """Corpus, checkpoint and outputs in another folder, as if they had been made there."""
    root = tmp_path / "news"
    shutil.copytree(DATA, root)
    for shard in (root / "corpus").rglob("*.parquet"):
        os.utime(shard, (MODIFIED, MODIFIED))
    for record in root.glob("labels*/ledger/*/*.json"):
        record.write_text(record.read_text().replace(PLACE, str(root)))
    return root


def label(place: Path, *options: object, output: str = "labels"):
    """The nightly command of the old output."""
    common = ["--input", place / "corpus", "--model", place / "checkpoint", "--audit-rate", "0.3"]
    return invoke("label", *common, "--output", place / output, "--max-bad-rows", "0.1", *options)


def summary(result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def files(folder: Path) -> dict[str, bytes]:
    """What stands in `table/` and in the records of its slices."""
    kept = [*folder.glob("table/**/*.parquet"), *folder.glob("ledger/slices/*.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def test_the_fingerprint_is_what_it_was(answers):
    assert fingerprint(CHECKPOINT) == answers.schema.metadata[b"fingerprint"].decode()


@pytest.mark.parametrize("name", POINTS)
def test_the_checkpoint_answers_as_before(name, answers):
    before = answers.filter(pc.field("point") == name)
    assert len(set(before["exit_layer"].to_pylist())) > 1 or name == "speed 0"  # control
    model = fastbert.load(CHECKPOINT, device="cpu", precision="fp32")
    same(model.label(before["text"].to_pylist(), **POINTS[name], as_="arrow"), before)


def test_it_labels_as_before():
    """What the old job wrote, null and blank texts included."""
    model = fastbert.load(CHECKPOINT, device="cpu", precision="fp32")
    for shard in ("dt=1/a", "dt=1/b", "c"):
        texts = pq.read_table(DATA / "corpus" / f"{shard}.parquet")["text"].to_pylist()
        files = sorted((DATA / "labels" / "table").glob(f"{shard}.*.parquet"))
        before = pa.concat_tables(pq.ParquetFile(path).read() for path in files)
        found = model.label(texts, as_="arrow")
        same(found, before)
        assert found["error"].to_pylist() == before["error"].to_pylist()
        assert found["tokens"].to_pylist() == before["tokens"].to_pylist()


def same(found: pa.Table, before: pa.Table) -> None:
    """Equal labels and layers; other numbers equal but for the last digits."""
    for name in ("label", "exit_layer"):
        assert found[name].to_pylist() == before[name].to_pylist(), name
    for name in ("score", "uncertainty"):
        one, other = (table[name].to_numpy().astype(float) for table in (found, before))
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_its_point_is_read():
    point = OperatingPoint.of_checkpoint(load_config(CHECKPOINT), None)
    assert (point.name, point.criterion, len(point.thresholds)) == (DEFAULT, "entropy", 2)
    assert point.promise is not None
    assert (point.promise.share, point.promise.harm) == (0.01, "disagreement")
    assert point.evidence is not None
    assert (sum(point.evidence.exits), point.evidence.precision) == (point.evidence.rows, "fp32")


def test_exits_without_depths_are_those_of_every_layer():
    assert OperatingPoint.of_checkpoint(load_config(CHECKPOINT), None).exit_depths == [1, 2, 3]


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_point_of_patience_is_refused(place, options):
    before = files(place / "labels-patient")
    result = label(place, "--operating-point", "patient", *options, output="labels-patient")
    refused(result, "'patient'", "patience", "calibrate")
    assert files(place / "labels-patient") == before


def test_the_other_points_are_evaluated(place, caplog):
    result = invoke(
        "evaluate", "--model", place / "checkpoint", "--data", place / "corpus", "--no-labels",
        "--no-timing",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [*json.loads(result.stdout)["operating_points"]] == ["max-disagreement-0.01"]
    assert "left out: the checkpoint's operating point 'patient'" in caplog.text


def test_patience_cannot_be_asked_for(place):
    options = ["--corpus", place / "corpus", "--max-disagreement", "0.2"]
    model = ["--model", place / "checkpoint"]
    result = invoke("calibrate", *model, *options, "--criterion", "patience")
    assert result.exit_code == 2, result.output
    assert "patience" in result.stderr


def test_what_patience_has_labelled_is_reported(place):
    (count,) = summary(
        invoke("report", "--output", place / "labels-patient", "--sql",
               "select count(*) as rows, avg(exit_layer) as depth from rows where error is null")
    )["rows"]  # fmt: skip
    assert count == {"rows": 38, "depth": 1.0}
    reported = summary(
        invoke("report", "--output", place / "labels-patient", "--html", place / "report.html")
    )
    assert [run["operating_point"] for run in reported["runs"]] == ["patient"]
    assert "patient" in (place / "report.html").read_text()


def test_the_output_is_reported(place):
    reported = summary(
        invoke("report", "--output", place / "labels", "--html", place / "report.html")
    )
    assert [(run["run_id"], run["rows"], run["errors"]) for run in reported["runs"]] == [
        ("first", 80, 4),
        ("second", 40, 2),
    ]
    # In the table, in the statistics, and in what was said when it was made.
    table = ds.dataset(place / "labels" / "table").to_table()
    by_layer = table.filter(pc.field("error").is_null()).group_by("exit_layer")
    counted = {row["exit_layer"]: row["count_all"] for row in
               by_layer.aggregate([([], "count_all")]).to_pylist()}  # fmt: skip
    assert {row["layer"]: row["rows"] for row in reported["exit_layers"]} == counted
    assert counted == {1: 82, 2: 1, 3: 31}
    assert sum(row["audited"] for row in reported["exit_layers"]) == 28
    assert {row["error"]: row["rows"] for row in reported["errors"]} == {
        "text is empty": 3,
        "text is null": 3,
    }


def test_the_output_is_reported_from_its_records_where_statistics_are_lost(place):
    for path in (place / "labels" / "stats").iterdir():
        path.unlink()
    reported = summary(invoke("report", "--output", place / "labels"))
    assert {row["layer"]: row["rows"] for row in reported["exit_layers"]} == {1: 82, 2: 1, 3: 31}


def test_calibrating_leaves_its_fingerprint_alone(place):
    """`config.json` has a key, `use_cache`, that the old code lost: its output is continued."""
    before = fingerprint(place / "checkpoint")
    write_shard(place / "more" / "a.parquet", pq.read_table(DATA / "answers.parquet")["text"])
    command = ["calibrate", "--model", place / "checkpoint", "--corpus", place / "more"]
    made = summary(invoke(*command, "--max-disagreement", "0.2", "--criterion", "margin"))
    assert fingerprint(place / "checkpoint") == before
    config = json.loads((place / "checkpoint" / "config.json").read_text())
    assert config["use_cache"] is False
    assert config["default_operating_point"] == made["operating_point"]["name"]
    assert summary(label(place, "--operating-point", DEFAULT))["slices_up_to_date"] == 8


def test_with_nothing_new_its_records_are_folded_and_nothing_else_is_done(place, monkeypatch):
    monkeypatch.setattr("pipelines.running.ray_data.run_stages", None)  # no model, no Ray
    before, ledger = files(place / "labels"), Ledger(Storage(str(place / "labels")))
    records = committed(ledger)
    assert len(records) == 8
    for _ in range(2):
        done = summary(label(place))
        assert (done["slices_labelled"], done["slices_up_to_date"]) == (0, 8)
    after = files(place / "labels")
    assert after == {path: data for path, data in before.items() if path.startswith("table/")}
    assert committed(ledger) == records  # which are in a manifest now
    assert len(ledger.storage.paths("ledger/manifests", "")) == 1


def test_another_speed_is_still_refused(place):
    refused(label(place, "--speed", "0.5"), "was labelled with thresholds", "--relabel")


@pytest.mark.integration
def test_a_new_shard_continues_it(place):
    before = files(place / "labels")
    old = pq.read_table(place / "corpus" / "dt=1" / "a.parquet")["text"].to_pylist()
    write_shard(place / "corpus" / "dt=2" / "new.parquet", old)
    done = summary(label(place, "--run-id", "third"))
    assert (done["slices_labelled"], done["slices_up_to_date"], done["rows"]) == (1, 8, 40)
    after = files(place / "labels")
    assert {path for path in before.keys() - after.keys() if path.startswith("table/")} == set()
    assert all(before[path] == after[path] for path in before.keys() & after.keys())
    new = pq.read_table(place / "labels" / "table" / "dt=2" / "new.000000000000.parquet")
    then = pa.concat_tables(
        pq.read_table(place / "labels" / "table" / "dt=1" / f"a.{row:012d}.parquet")
        for row in (0, 16, 32)
    )
    # The same texts, so the same answers; which rows are audited may differ.
    assert new.schema.remove_metadata() == then.schema.remove_metadata()
    same(new, then)
    for name in ("tokens", "flops", "error"):
        assert new[name].to_pylist() == then[name].to_pylist(), name
    records = committed(Ledger(Storage(str(place / "labels"))))
    assert [(r.shard, r.precision) for r in records if r.run_id == "third"] == [
        ("dt=2/new", "fp32")
    ]
    assert len(records) == 9
    reported = summary(invoke("report", "--output", place / "labels"))
    assert [run["run_id"] for run in reported["runs"]] == ["first", "second", "third"]
    assert sum(row["rows"] for row in reported["exit_layers"]) == 114 + 38
    assert (summary(label(place))["slices_labelled"]) == 0


def test_an_export_plans_it(place):
    pytest.importorskip("deltalake")
    command = ["export", "--output", place / "labels", "--delta", place / "delta"]
    done = summary(invoke(*command))
    assert (done["runs"], done["rows_added"]) == (["first", "second"], 120)
    assert summary(invoke(*command))["rows_added"] == 0
