"""A night touches what is new, and counts: no other shard is opened."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from support.labelling import settings
from support.shards import random_texts, write_shard
from support.stages import InProcess

from pipelines.input.shards import Shard
from pipelines.labelling.job import label

SHARDS = 1000


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The URL of each shard that is opened, for its footer or its rows."""
    urls: list[str] = []
    real = Shard.open

    def open_(shard: Shard):
        urls.append(shard.url)
        return real(shard)

    monkeypatch.setattr(Shard, "open", open_)
    return urls


def test_one_changed_shard_among_a_thousand(tmp_path, checkpoint, opened):
    for k in range(SHARDS):
        write_shard(tmp_path / "in" / f"day={k % 7}" / f"{k}.parquet", random_texts(2, seed=k))
    night = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5)
    first = label(night, InProcess())
    assert first["slices_labelled"] == SHARDS
    assert first["exit_code"] == 0
    assert len(set(opened)) == SHARDS  # control: it is counted
    table = tmp_path / "out" / "table"
    before = {path: path.stat().st_mtime_ns for path in table.rglob("*.parquet")}

    opened.clear()
    again = label(night, InProcess(lambda: pytest.fail("no model")))
    assert (again["slices_labelled"], again["slices_up_to_date"]) == (0, SHARDS)
    assert opened == []

    changed = write_shard(tmp_path / "in" / "day=3" / "500.parquet", random_texts(5, seed=SHARDS))
    third = label(night, InProcess())
    assert (third["slices_labelled"], third["rows"]) == (1, 5)
    assert set(opened) == {f"file://{changed}"}
    after = {path: path.stat().st_mtime_ns for path in table.rglob("*.parquet")}
    assert after.keys() == before.keys()
    assert [p.name for p in after if after[p] != before[p]] == ["500.000000000000.parquet"]


NOTHING_TO_DO = """
import sys
from dataclasses import replace
from support.labelling import settings
from pipelines.running.executor import label_anywhere
summary = label_anywhere(settings(*sys.argv[1:], speed=0.5))
assert summary["slices_up_to_date"] == 1, summary
large = {"ray", "torch", "transformers", "tokenizers", "rich", "scipy.stats"}
print(large & sys.modules.keys() or "none")
"""


def test_a_night_with_nothing_to_do_imports_nothing_large(tmp_path, checkpoint):
    write_shard(tmp_path / "in" / "a.parquet", random_texts(3))
    places = [str(tmp_path / "in"), str(tmp_path / "out"), checkpoint]
    label(settings(*places, speed=0.5), InProcess())
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_TO_DO, *places],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "none\n"


class SlowToStart(InProcess):
    def resources(self, settings):
        time.sleep(0.2)
        return super().resources(settings)


def test_a_dry_run_estimates_by_the_last_run_of_the_same_model(tmp_path, checkpoint, caplog):
    caplog.set_level("INFO")
    corpus, output = tmp_path / "in", tmp_path / "out"
    write_shard(corpus / "a.parquet", random_texts(300))
    asked = settings(corpus, output, checkpoint, speed=0.5)
    last = label(asked, SlowToStart())
    assert 0.2 <= last["startup_seconds"] < last["seconds"]
    write_shard(corpus / "b.parquet", random_texts(600, seed=1))
    found = label(replace(asked, dry_run=True), InProcess())["estimate"]
    assert found["by"] == f"run {last['run_id']}"
    assert found["startup_seconds"] == last["startup_seconds"]
    assert found["seconds"] == pytest.approx(2 * last["device_seconds"], abs=0.1)
    times_fewer = last["full_flops"] / last["flops"]
    full_depth = pytest.approx(2 * last["device_seconds"] * times_fewer, abs=0.1)
    assert found["full_depth_seconds"] == full_depth
    assert f"600 rows: about {found['seconds']:.0f} s of one replica" in caplog.text
    other = replace(asked, dry_run=True, speed=0.7, output=str(tmp_path / "other"))
    shutil.copytree(output / "ledger" / "runs", tmp_path / "other" / "ledger" / "runs")
    assert "probe of 200 rows" in label(other, InProcess())["estimate"]["by"]
