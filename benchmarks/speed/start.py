"""How long a run takes to begin: with nothing to do, and to its first labelled slice.

Hypotheses: a run with nothing to do takes at most 3 times as long as Python that imports pyarrow,
DuckDB and fsspec; the first slice is there, by the local executor, in at most 0.45 of the time that
release 831b513 takes.

    python -m benchmarks.speed.start --work WORK --output benchmarks/results/start.json

Takes about 5 minutes on two idle cores; others at work on the machine make the numbers worthless
(`load` says how many there were). The corpus is the demo's tickets, the model a tiny one. The
other release is checked out of this repository into WORK, and run by the same interpreter. All
contenders run in turns; a warm-up of each comes before.

The seconds are those of the whole command, or those from its start to the first file below
`table/`. `ratio` is of medians, and holds where it is at most what is `claimed`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import corpus
from support.models import save_tiny_models

from benchmarks import ROOT
from benchmarks.support.measure import machine

RELEASE = "831b513"
IMPORTS = "import pyarrow.parquet, duckdb, fsspec"
#: Seconds between two looks for the first file.
_LOOKS = 0.005


def checked_out(folder: Path) -> Path:
    """The other release's files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", RELEASE], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def environment(checkout: Path) -> dict[str, str]:
    """For commands of a checkout."""
    known = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return known | {"PYTHONPATH": str(checkout)}


def label(checkout: Path, work: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """Starts the command."""
    command = [
        sys.executable, "jobs/label.py", "--input", str(work / "corpus" / "tickets"),
        "--output", str(output), "--model", str(work / "model"), "--speed", "0.3",
        "--slice-rows", "500", *more,
    ]  # fmt: skip
    log = (work / "stderr").open("w")
    return subprocess.Popen(
        command, cwd=checkout, env=environment(checkout), stdout=subprocess.DEVNULL, stderr=log
    )


def ended(process: subprocess.Popen[str], work: Path) -> None:
    """Waits for it; an exception where it fails."""
    if process.wait():
        raise click.ClickException(f"a run failed:\n{(work / 'stderr').read_text()[-3000:]}")


def first_slice(checkout: Path, work: Path, *more: str) -> float:
    """Seconds until it is there."""
    output = work / "labels"
    shutil.rmtree(output, ignore_errors=True)
    started = time.perf_counter()
    process = label(checkout, work, output, *more)
    while not any(output.glob("table/**/*.parquet")) and process.poll() is None:
        time.sleep(_LOOKS)
    seconds = time.perf_counter() - started
    ended(process, work)
    return seconds


def whole(work: Path, start: Callable[[], subprocess.Popen[str]]) -> float:
    """Seconds of a command."""
    started = time.perf_counter()
    ended(start(), work)
    return time.perf_counter() - started


def in_turns(
    contenders: dict[str, Callable[[], float]], rounds: int
) -> tuple[dict[str, list[float]], float]:
    """The seconds that each says, after a warm-up; and the most that others were at work."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    load = os.getloadavg()[0]
    for turn in range(-1, rounds):
        for name, run in contenders.items():
            found = run()
            if turn >= 0:
                seconds[name].append(round(found, 3))
        print({name: some[-1:] for name, some in seconds.items()}, flush=True)
    return seconds, round(load, 2)


def judged(
    seconds: dict[str, list[float]], ours: str, other: str, claimed: float
) -> dict[str, Any]:
    """A hypothesis, and whether it holds."""
    ratio = round(median(seconds[ours]) / median(seconds[other]), 3)
    return {"of": ours, "to": other, "ratio": ratio, "claimed": claimed, "holds": ratio <= claimed}


@click.command()
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The JSON file.")
@click.option("--rounds", default=5, show_default=True)
def main(work: Path, output: Path, rounds: int) -> None:
    """See the top of this file."""
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    print(machine("ray"), f"load {os.getloadavg()[0]:.1f}", flush=True)
    corpus.main(work / "corpus")
    save_tiny_models(work)
    other = checked_out(work / RELEASE)
    done = work / "done"
    ended(label(ROOT, work, done), work)
    imports = partial(subprocess.Popen, [sys.executable, "-c", IMPORTS], text=True)
    idle, load_idle = in_turns(
        {
            "nothing to do": lambda: whole(work, lambda: label(ROOT, work, done)),
            "imports": lambda: whole(work, imports),
        },
        rounds,
    )
    first, load_first = in_turns(
        {
            "local": lambda: first_slice(ROOT, work, "--executor", "local"),
            "ray": lambda: first_slice(ROOT, work, "--executor", "ray"),
            RELEASE: lambda: first_slice(other, work),
        },
        rounds,
    )
    hypotheses = [
        judged(idle, "nothing to do", "imports", 3.0),
        judged(first, "local", RELEASE, 0.45),
    ]
    found = {
        "command": f"python -m benchmarks.speed.start --rounds {rounds} --work WORK "
        "--output benchmarks/results/start.json",
        "machine": machine("ray", "pyarrow", "duckdb", "fsspec"),
        "load": {"before nothing to do": load_idle, "before the first slice": load_first},
        "medians": {name: median(some) for name, some in (idle | first).items()},
        "hypotheses": hypotheses,
        "seconds": idle | first,
    }
    output.write_text(json.dumps(found, indent=1) + "\n")
    for each in hypotheses:
        print(each)
    raise SystemExit(not all(each["holds"] for each in hypotheses))


if __name__ == "__main__":
    main()
