"""How long until a report of a large output shows its first table, and what does it take?

    python -m benchmarks.speed.reporting --work WORK --output benchmarks/results/reporting.json

Hypothesis: with 100,000 slices of 5 labels and 6 layers in 365 runs, the first table is there in
under 5 seconds, the report keeps below 1 GB, and its HTML file below 2 MB. The output is made up
(tests/support/made_up_history.py): ledger, statistics and summaries are written by the job's own
code, the files of labelled rows are empty, as no question of the report opens them.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from support.made_up_history import write_history

from benchmarks import ROOT
from benchmarks.support.measure import machine


def run_report(output: Path, page: Path) -> dict[str, Any]:
    """The command: seconds to the first table and to the end, and the peak of its memory."""
    command = [sys.executable, "jobs/report.py", "--output", str(output), "--html", str(page)]
    started = time.monotonic()
    with open(page.with_suffix(".json"), "w") as summary:
        job = subprocess.Popen(command, cwd=ROOT, stdout=summary, stderr=subprocess.PIPE, text=True)
        assert job.stderr is not None
        for line in job.stderr:
            if line.startswith("┏"):
                break
        first = time.monotonic() - started
        job.stderr.read()
        _, status, usage = os.wait4(job.pid, 0)
    if status:
        raise SystemExit(f"the report failed: {status}")
    return {
        "seconds_to_the_first_table": round(first, 2),
        "seconds": round(time.monotonic() - started, 2),
        "peak_megabytes": round(usage.ru_maxrss / 1024),
        "html_megabytes": round(page.stat().st_size / 1e6, 3),
    }


@click.command()
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--slices", default=100_000, show_default=True)
@click.option("--runs", default=365, show_default=True)
def main(work: Path, output: Path, slices: int, runs: int) -> None:
    """See the top of this file."""
    work = work.resolve()
    labels = work / f"labels-{slices}-{runs}"
    if not labels.exists():
        work.mkdir(parents=True, exist_ok=True)
        write_history(labels, runs, -(-slices // runs))
    print(machine("duckdb", "pyarrow", "matplotlib"))
    rounds = [run_report(labels, work / "report.html") for _ in range(3)]
    found = {
        "program": "python -m benchmarks.speed.reporting --work WORK "
        "--output benchmarks/results/reporting.json",
        "machine": machine("duckdb", "pyarrow", "matplotlib"),
        "slices": -(-slices // runs) * runs,
        "runs": runs,
        "statistics_megabytes": round(
            sum(path.stat().st_size for path in (labels / "stats").iterdir()) / 1e6, 1
        ),
        "rounds": rounds,
    }
    output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(rounds, indent=1))


if __name__ == "__main__":
    main()
