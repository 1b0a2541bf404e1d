"""What a scheduler asks: does the output need a person? And alarms as exit codes."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from support.jobs import invoke, refused
from support.labelling import settings
from support.records import end_run, record
from support.shards import random_texts, write_shard
from support.stages import InProcess

from pipelines.labelling import audit as audits
from pipelines.labelling import job as jobs
from pipelines.labelling.job import label
from pipelines.labelling.summary import Tally, totals
from pipelines.output import last_run
from pipelines.output.ledger import Ledger
from pipelines.output.lock import RunLock
from pipelines.output.storage import Storage, to_parquet


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(Storage(str(tmp_path)))


def ran(ledger: Ledger, day: int, rows: int = 10, **summary) -> None:
    """A run on a day of November, which has labelled a shard, or nothing."""
    name, at = f"night-{day}", datetime(2026, 11, day, 2, 30, tzinfo=UTC)
    records = []
    if rows:
        records = [record(f"shard-{day}", 0, rows, run_id=name, error_rows=1)]
        ledger.storage.put(records[0].path, to_parquet(pa.table({})))
    found = totals(Tally(records)) | {"started_at": at.isoformat(), "seconds": 600, "alarms": []}
    found |= {"bad_shards": {}, "exit_code": 0, "max_bad_rows": 0.2} | summary
    end_run(ledger, name, records, found)
    ended = (at + timedelta(minutes=10)).isoformat()
    last = last_run.LastRun(run_id=name, ended_at=ended, exit_code=found["exit_code"],
                            bad_shards=found["bad_shards"])  # fmt: skip
    last_run.write(ledger.storage, last)


def checked(output, *more: object) -> tuple[int, list[str], list[str]]:
    """Exit code, what needs a person, and earlier alarms."""
    result = invoke("report", "--output", output, "--check", *more)
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["exit_code"] == result.exit_code
    return result.exit_code, found["needs"], found["older"]


def test_a_quiet_night_needs_nobody(tmp_path, ledger):
    ran(ledger, 1)
    assert checked(tmp_path) == (0, [], [])


def test_alarms_of_the_last_run_fail_and_earlier_ones_are_listed(tmp_path, ledger):
    ran(ledger, 1, alarms=["one", "two"])
    assert checked(tmp_path) == (5, ["night-1: one", "night-1: two"], [])
    ran(ledger, 2, alarms=["three"])
    assert checked(tmp_path) == (5, ["night-2: three"], ["night-1: one", "night-1: two"])
    # A retry that finds nothing to do, or a shard that it cannot read, hides no alarm.
    ran(ledger, 3, rows=0, bad_shards={"s3://in/x.parquet": "broken"}, exit_code=3)
    code, needs, _ = checked(tmp_path)
    assert (code, needs) == (5, ["night-2: three", "cannot be read: s3://in/x.parquet: broken"])
    ran(ledger, 4)
    code, needs, older = checked(tmp_path)
    assert (code, needs) == (0, [])
    assert older == ["night-2: three", "night-1: one", "night-1: two"]


def test_shards_that_are_unreadable_now(tmp_path, ledger):
    """Not those that were once: the last run of all says which, also one that did nothing else."""
    ran(ledger, 1, bad_shards={f"s3://in/{i}.parquet": "broken" for i in range(30)}, exit_code=3)
    code, needs, _ = checked(tmp_path)
    assert code == 5
    assert len(needs) == 21
    assert needs[-1] == "and 10 more: see fastbert report"
    ended = datetime.now(UTC).isoformat()
    last_run.write(ledger.storage, last_run.LastRun(run_id="idle", ended_at=ended, exit_code=0))
    assert checked(tmp_path) == (0, [], [])


@pytest.mark.parametrize(("most", "code"), [(0.05, 5), (0.1, 0), (0.2, 0)])
def test_too_many_bad_rows(tmp_path, ledger, most, code):
    ran(ledger, 1, max_bad_rows=most, exit_code=3)
    found, needs, _ = checked(tmp_path)
    assert found == code
    assert needs == ["night-1: 1 of 10 rows have an error"] * bool(code)


def test_summaries_of_earlier_releases(tmp_path, ledger):
    """They do not say how many bad rows are too many, and no object says which run was the last."""
    ran(ledger, 1, max_bad_rows=None, exit_code=3)
    ledger.storage.remove(last_run.PATH)
    assert checked(tmp_path)[:2] == (5, ["night-1: 1 of 10 rows have an error"])
    ran(ledger, 2, max_bad_rows=None, exit_code=3, bad_shards={"a": "broken"})
    ledger.storage.remove(last_run.PATH)
    assert checked(tmp_path)[:2] == (5, ["cannot be read: a: broken"])
    assert "no run has ended for" in checked(tmp_path, "--max-age", 1)[1][-1]


def test_a_job_that_is_not_started_any_more(tmp_path, ledger):
    ran(ledger, 1)
    hours = (datetime.now(UTC) - datetime(2026, 11, 1, 2, 40, tzinfo=UTC)) / timedelta(hours=1)
    assert checked(tmp_path, "--max-age", hours + 1) == (0, [], [])
    code, needs, _ = checked(tmp_path, "--max-age", hours - 1)
    assert code == 5
    assert needs[0].startswith(f"no run has ended for {hours:,.0f} hours, --max-age is")


def test_what_check_goes_with(tmp_path, ledger):
    ran(ledger, 1)
    report = ["report", "--output", tmp_path]
    refused(invoke(*report, "--max-age", 3), "--check goes with")
    refused(invoke(*report, "--check", "--sql", "select 1"), "--check goes with")
    refused(invoke(*report[:2], tmp_path / "none", "--check"), "no labels at")


# --- the labelling job's exit code


@pytest.fixture
def night(tmp_path, checkpoint, monkeypatch):
    """Labels a shard, and raises an alarm."""
    monkeypatch.setattr(jobs, "RunLock", lambda s, r: RunLock(s, r, settle=0))
    monkeypatch.setattr(jobs, "audits", lambda *_: audits.audits(*_) | {"alarms": ["look"]})
    write_shard(tmp_path / "in" / "a.parquet", [*random_texts(9), None])

    def run(**changes) -> int:
        asked = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5)
        return label(replace(asked, **changes), InProcess())["exit_code"]

    return run


def test_an_alarm_ends_as_it_was_asked_for(tmp_path, night):
    assert night(alarm_exit_code=17) == 17
    assert checked(tmp_path / "out")[0] == 5


def test_an_alarm_does_not_change_the_exit_code_unasked(night):
    assert night() == 0


def test_bad_rows_win_over_an_alarm(night):
    assert night(alarm_exit_code=17, max_bad_rows=0.05) == 3


@pytest.mark.parametrize("code", [1, 4, 126, -1])
def test_exit_codes_that_mean_something_else(tmp_path, checkpoint, code):
    places = ["--input", tmp_path, "--output", tmp_path / "out", "--model", checkpoint]
    refused(invoke("label", *places, "--alarm-exit-code", code), "expected 0, or 5 to 125")


def test_a_run_that_finds_nothing_to_do_says_that_it_ended(tmp_path, night):
    """Where that was not said within the last hour: else nothing is written."""
    night(run_id="first")
    storage = Storage(str(tmp_path / "out"))
    first = last_run.read(storage)
    night(run_id="second")
    assert last_run.read(storage) == first
    earlier = (first.at - timedelta(hours=1)).isoformat()
    storage.put(last_run.PATH, json.dumps(vars(first) | {"ended_at": earlier}).encode())
    night(run_id="third")
    assert last_run.read(storage).run_id == "third"
    assert not storage.read(["ledger/runs/third.json"])


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"run_id": "a"}', b'{"run_id": "a", "ended_at": "x", "exit_code": 0}'],
)
def test_a_damaged_last_run_counts_as_none(tmp_path, text):
    storage = Storage(str(tmp_path))
    storage.put(last_run.PATH, text)
    assert last_run.read(storage) is None
    now = datetime.now(UTC).isoformat()
    last_run.write(storage, last_run.LastRun(run_id="new", ended_at=now, exit_code=0))
    assert last_run.read(storage).run_id == "new"
