"""A month of nights, simulated: does each touch only what is new, and does the report show it all?

    python -m benchmarks.faults.nightly --work WORK --output benchmarks/results/nightly.json

Claims: every night labels exactly the rows that are new or have changed, and leaves every other
file of the table alone; a new operating point that becomes the checkpoint's default changes
nothing, and a new model is used for what is new; what `runs`, `exits` and a scan of the table add
up to is the same, to the row and the FLOP; an outage, a shard that cannot be read, a new model and
a week of other texts can be seen in the report; `report --check` ends with 5 in the nights that
need a person, and only then; the audits of all nights of a model add up in the report. All of it
takes less than 15 minutes on 2 cores.

Two models are trained and calibrated on made-up tickets (demo/corpus.py), then the job and the
check run once a night on this machine, as a scheduler would start them. What happens is in EVENTS.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
from corpus import ASIDES, SUBJECTS, ticket

from benchmarks import ROOT
from benchmarks.support.measure import machine
from pipelines.reports import analytics

NIGHTS, SHARDS, ROWS, SLICE_ROWS = 30, 2, 400, 200
EVENTS = {
    5: "a shard of night 3 is written again",
    8: "a shard of night 2 vanishes",
    9: "run with --prune",
    12: "outage: the job is killed half way",
    13: "outage: no run",
    15: "the model is calibrated again: a new default point",
    16: "a shard is cut off",
    17: "it is repaired",
    20: "a new model, run with --on-change new",
    **{night: "other texts" for night in range(24, 31)},
}
TRAINING = "--epochs 2 --distil-epochs 3 --learning-rate 1e-4 --distil-learning-rate 5e-4"


@dataclass
class Month:
    """Input, output, and what should be labelled the next time."""

    work: Path
    source: random.Random = field(default_factory=lambda: random.Random(7))
    #: Rows of the shards that are new or have changed since they were labelled.
    due: dict[Path, int] = field(default_factory=dict)

    @property
    def corpus(self) -> Path:
        return self.work / "corpus"

    @property
    def output(self) -> Path:
        return self.work / "labels"

    def shard(self, night: int, number: int) -> Path:
        """Where a shard is."""
        return self.corpus / f"dt=2026-11-{night:02d}" / f"part-{number}.parquet"

    def write(self, path: Path, text: Callable[[random.Random], str]) -> None:
        """A new version of a shard."""
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [text(self.source) for _ in range(ROWS)]}), path)
        self.due[path] = ROWS

    def table(self) -> dict[str, tuple[int, int]]:
        """Every file of labelled rows, and a stamp that changes when it is written."""
        files = sorted(self.output.glob("table/**/*.parquet"))
        return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}

    def command(self, model: str, night: int, *more: str) -> list[str]:
        """The job as a scheduler starts it."""
        return [
            sys.executable, "jobs/label.py", "--input", str(self.corpus), "--output",
            str(self.output), "--model", str(self.work / model), "--run-id", f"night-{night:02d}",
            "--slice-rows", str(SLICE_ROWS), "--audit-rate", "0.2", "--price-per-hour", "2.5",
            "--executor", "local", *more,
        ]  # fmt: skip

    def run(self, job: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Another job; its summary."""
        command = [sys.executable, f"jobs/{job}.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode not in codes:
            raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def usual(source: random.Random) -> str:
    """A ticket."""
    return ticket(source)[0]


def unusual(source: random.Random) -> str:
    """A ticket of the kind that mixes two subjects, which few of the usual ones do."""
    one, two = source.sample(list(SUBJECTS), 2)
    body = source.choice(ASIDES).format(
        subject=source.choice(SUBJECTS[one]), aside=source.choice(SUBJECTS[two])
    )
    return body.format(month="May", number=source.randint(2, 900))


def make_model(month: Month, name: str, seed: int) -> None:
    """Train and calibrate."""
    rows = [ticket(month.source) for _ in range(1500)]
    table = pa.table({"text": [t for t, _ in rows], "label": [label for _, label in rows]})
    pq.write_table(table, month.work / "train.parquet")
    texts = [usual(month.source) for _ in range(2000)]
    pq.write_table(pa.table({"text": texts}), month.work / "sample.parquet")
    month.run("train", "--train", str(month.work / "train.parquet"), "--output",
              str(month.work / name), *TRAINING.split(), "--max-length", "64",
              "--seed", str(seed))  # fmt: skip
    calibrate(month, name, 0.03)


def calibrate(month: Month, name: str, share: float) -> None:
    """A new default point."""
    month.run("calibrate", "--model", str(month.work / name), "--corpus",
              str(month.work / "sample.parquet"), "--max-disagreement", str(share))  # fmt: skip


def prepare(month: Month, night: int) -> None:
    """What has happened to the corpus by this night."""
    for number in range(SHARDS):
        month.write(month.shard(night, number), unusual if night >= 24 else usual)
    if night == 5:
        month.write(month.shard(3, 0), usual)
    if night == 8:
        month.shard(2, 1).unlink()
    if night == 16:
        path = month.shard(16, 1)
        whole = path.read_bytes()
        (month.work / "whole").write_bytes(whole)
        path.write_bytes(whole[: len(whole) // 2])
        del month.due[path]
    if night == 17:
        month.shard(16, 1).write_bytes((month.work / "whole").read_bytes())
        month.due[month.shard(16, 1)] = ROWS
    if night == 15:
        calibrate(month, "model-1", 0.05)


def live(month: Month, night: int) -> dict[str, Any]:
    """One night: what was expected, what was done."""
    prepare(month, night)
    found: dict[str, Any] = {
        "night": night,
        "event": EVENTS.get(night),
        "rows_due": sum(month.due.values()),
    }
    if night == 13:
        return found
    model = "model-2" if night >= 20 else "model-1"
    more = {9: ["--prune"], 20: ["--on-change", "new"]}.get(night, [])
    before, started = month.table(), time.monotonic()
    job = subprocess.Popen(month.command(model, night, *more), cwd=ROOT,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    if night == 12:
        while len(month.table()) <= len(before):
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
    stdout, stderr = job.communicate()
    after = month.table()
    kept = [path for path in before if after.get(path) == before[path]]
    found |= {
        "exit_code": job.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "files_left_alone": len(kept),
        "files_written": len(set(after.items()) - set(before.items())),
        "files_removed": len(before.keys() - after.keys()),
    }
    if night == 12:
        return found
    if job.returncode not in (0, 3):
        raise SystemExit(stderr[-3000:])
    summary = json.loads(stdout.splitlines()[-1])
    names = ("rows", "operating_point", "mean_exit_layer", "flops_speedup", "audit_rows",
             "audit_agreement", "exit_drift", "alarms", "bad_shards")  # fmt: skip
    found |= {name: summary.get(name) for name in names}
    checked = month.run("report", "--output", str(month.output), "--check", codes=(0, 5))
    found |= {"check": checked["exit_code"], "needs": checked["needs"]}
    month.due.clear()
    return found


def check(month: Month, nights: list[dict[str, Any]]) -> dict[str, Any]:
    """Each claim, and whether it holds."""
    found = analytics.open(str(month.output))

    def one(sql: str) -> list[int]:
        return [int(value) for value in found.query(sql).iloc[0]]

    killed = one("select coalesce(sum(rows), 0), count(*) from exits where run_id = 'night-12'")[0]
    surplus = [
        night["rows"] - (night["rows_due"] - (killed if night["night"] == 14 else 0))
        for night in nights if "rows" in night
    ]  # fmt: skip
    history = one("select sum(rows), sum(flops) from exits")
    runs = one("select sum(rows), sum(flops) from runs")
    current = one("select sum(rows), sum(flops) from exits where current")
    slices = one("select sum(rows), sum(flops) from slices")
    scan = one("select count(*), sum(flops) from rows")
    shards = [pq.read_metadata(path).num_rows for path in month.corpus.glob("**/*.parquet")]
    report = month.run(
        "report", "--output", str(month.output), "--html", str(month.work / "report.html")
    )
    page = (month.work / "report.html").read_text()
    alarms = {alarm["run_id"] for alarm in report["alarms"]}
    drifted = {f"night-{night:02d}" for night in range(24, 31)}
    listed = {run["run_id"]: run for run in report["runs"]}
    checkpoints = [run["checkpoint"] for run in report["runs"] if run["checkpoint"]]
    ended = [night for night in nights if "check" in night]
    points = {night["operating_point"] for night in ended if night["night"] < 20}
    recipes = report["recipes"]
    return {
        "rows_labelled_beyond_those_due": surplus,
        "rows_committed_by_the_killed_run": killed,
        "rows_and_flops": {"runs": runs, "exits": history, "exits, current": current,
                           "slices": slices, "scan of the table": scan},
        "rows_of_the_input": sum(shards),
        "claims": {
            "each night labels exactly what is due": not any(surplus),
            "all other files are left alone": all(
                night["files_written"] * SLICE_ROWS == night["rows"]
                for night in nights
                if "rows" in night
            ),
            "runs = exits": runs == history,
            "current exits = slices = scan of the table": current == slices == scan,
            "the table has the input's rows": scan[0] == sum(shards),
            "report: the outage": listed["night-12"]["exit_code"] is None
            and "night-13" not in listed,
            "report: the shard that was cut off": "part-1.parquet" in page
            and [shard["run_id"] for shard in report["unreadable_shards"]] == ["night-16"],
            "report: the new model": len(set(checkpoints)) == 2,
            "report: each night of other texts raises an alarm": drifted <= alarms,
            "a new default point changes nothing": len(points) == 1,
            "report: a row for each model, which add up to the table": len(recipes) == 2
            and sum(each["rows"] for each in recipes) == scan[0],
            "report: the audits of all nights add up": sum(each["audited"] for each in recipes)
            == one("select sum(audit_rows), 0 from exits")[0]
            and min(each["audited"] for each in recipes)
            > max(night["audit_rows"] for night in ended),
            "check: 5 in nights with alarms or unreadable shards, else 0": all(
                night["check"] == (5 if night["alarms"] or night["bad_shards"] else 0)
                for night in ended
            ),
        },
        "recipes": recipes,
        "nights_with_a_false_alarm": sorted(alarms - drifted),
        "html_bytes": len(page.encode()),
    }  # fmt: skip


@click.command()
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(work: Path, output: Path) -> None:
    """See the top of this file."""
    started = time.monotonic()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    work = work.resolve()
    print(machine("duckdb"), flush=True)
    month = Month(work)
    for seed, name in enumerate(("model-1", "model-2"), start=1):
        make_model(month, name, seed)
    trained = time.monotonic()
    nights = []
    for night in range(1, NIGHTS + 1):
        nights.append(live(month, night))
        print(nights[-1], flush=True)
    found = {
        "program": "python -m benchmarks.faults.nightly --work WORK "
        "--output benchmarks/results/nightly.json",
        "machine": machine("duckdb"),
        "minutes_of_training": round((trained - started) / 60, 1),
        "minutes": 0.0,
        **check(month, nights),
        "nights": nights,
    }
    found["minutes"] = round((time.monotonic() - started) / 60, 1)
    output.write_text(json.dumps(found, indent=1).replace(str(work), "WORK") + "\n")
    print(json.dumps(found["claims"], indent=1), found["minutes"], "minutes")
    raise SystemExit(0 if all(found["claims"].values()) else 1)


if __name__ == "__main__":
    main()
