"""Is this commit as fast as another one? Both in turns, with the same checkpoint and texts.

Hypothesis: neither the engine nor the labelling job is slower than the other commit's; in fp32 and
in bf16, each is at least 0.97 times as fast. The engine in int8, and the whole command with the
start of Ray, are reported as well.

    git worktree add ../other 831b513
    python -m benchmarks.speed.versions --against ../other --data ag_news/test.parquet \\
        --work WORK --output benchmarks/results/versions.json

Takes about 10 minutes on two cores; --rounds and --job-rounds make it shorter. Without --data,
texts are made up.

The model has the size and the weights of MiniLM, and branches that are random: the clock does not
care. Thresholds are set so that at each of its six exits half of the rows leave that come there.

Engines live in one process per commit, with the same interpreter, and are asked one after the
other, whose turn is first alternating, after runs that warm up. The job is `jobs/label.py` on a
private Ray and a local disk. Its seconds are those from the first slice's commit to the last's, so
that they do not count Ray, its workers and the model as they start; those of the command do.

`ratio` is the other commit's seconds by this one's, above 1 if this one is faster: the median over
pairs of neighbouring runs, and the quartiles.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from support.shards import random_texts
from transformers import AutoTokenizer

from benchmarks import ROOT
from benchmarks.support.measure import commit, machine
from fastbert.calibration.evaluation import exit_outputs
from fastbert.checkpoint import store_operating_point
from fastbert.encoders.pretrained import DEFAULT_BACKBONE, locate_backbone
from fastbert.inference.engine import Engine
from fastbert.inference.precision import supports
from fastbert.inference.tokenizer import Tokenizer
from fastbert.model import FastBertForSequenceClassification
from fastbert.weights import save_checkpoint

WORKER = Path(__file__).with_name("version_worker.py")
ENGINES, JOBS, CLAIMED = ("fp32", "bf16", "int8"), ("fp32", "bf16"), 0.97
#: Rows that set the thresholds, and the share of those that come to an exit and leave there.
SAMPLE, LEAVING = 1_000, 0.5
#: Spreads what random branches answer.
SPREAD = 20

#: One run of a commit: seconds, by what they are of.
Run = Callable[[], dict[str, float]]


def make_checkpoint(folder: Path, texts: list[str]) -> None:
    """A model whose rows leave at all of its layers, which both commits can read."""
    torch.manual_seed(0)
    labels = ["World", "Sports", "Business", "Sci/Tech"]
    model = FastBertForSequenceClassification.from_backbone(DEFAULT_BACKBONE, labels).eval()
    with torch.no_grad():
        for head in model.heads:
            head.classifier.weight.mul_(SPREAD)
    tokenizer = AutoTokenizer.from_pretrained(locate_backbone(DEFAULT_BACKBONE))
    tokens = Tokenizer(tokenizer)(texts[:SAMPLE], None, model.config.max_length)
    uncertainties = exit_outputs(Engine(model), tokens).uncertainties
    waiting, thresholds = np.ones(len(tokens), bool), []
    for seen in uncertainties[:-1]:
        thresholds.append(float(np.quantile(seen[waiting], LEAVING)))
        waiting &= seen >= thresholds[-1]
    save_checkpoint(model, tokenizer, str(folder))
    # Only what a point has had from the first.
    store_operating_point(str(folder), "spread", {"thresholds": thresholds, "criterion": "entropy"})


class Version:
    """A checkout: its name, its engines in a process, and its job."""

    def __init__(self, checkout: Path, model: Path, engine_data: Path, work: Path) -> None:
        self.checkout, self.model, self.work = checkout, model, work
        self.name = commit(checkout)
        known = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.environment = known | {"PYTHONPATH": str(checkout)}
        command = [sys.executable, "-P", str(WORKER), str(model), str(engine_data)]
        self.process = subprocess.Popen(
            command,
            cwd=checkout,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hello = self._answer()
        if not Path(self.hello["package"]).is_relative_to(checkout):
            raise click.ClickException(f"{checkout} runs {self.hello['package']}, not its own code")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # which ends its requests

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise click.ClickException(f"the worker of {self.checkout} has failed; see above")
        return json.loads(line)

    def ask(self, what: str, precision: str) -> Any:
        """One answer of the worker."""
        assert self.process.stdin is not None
        print(json.dumps({"do": what, "precision": precision}), file=self.process.stdin, flush=True)
        return self._answer()

    def engine(self, precision: str) -> dict[str, float]:
        """Seconds of the engine, over all rows."""
        return {f"engine {precision}": self.ask("seconds", precision)}

    def job(self, precision: str, corpus: Path, slice_rows: int) -> dict[str, float]:
        """Seconds of the job and of its command, over a fresh output."""
        output = self.work / "labels"
        shutil.rmtree(output, ignore_errors=True)
        command = [
            sys.executable, "jobs/label.py", "--input", str(corpus), "--output", str(output),
            "--model", str(self.model), "--slice-rows", str(slice_rows), "--precision", precision,
        ]  # fmt: skip
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.checkout, env=self.environment, capture_output=True, text=True
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise click.ClickException(f"{self.name}: {' '.join(command)}:\n{done.stderr[-3000:]}")
        records = Path(output, "ledger", "slices").rglob("*.json")
        times = [record.stat().st_mtime_ns for record in records]
        return {
            f"job {precision}": (max(times) - min(times)) / 1e9,
            f"command {precision}": seconds,
        }


def in_turns(this: Run, other: Run, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Pairs of seconds (this, other), by what they are of; each is the first in every other."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for turn in range(rounds):
        if turn % 2:
            theirs, ours = other(), this()
        else:
            ours, theirs = this(), other()
        for name, seconds in ours.items():
            pairs.setdefault(name, []).append((seconds, theirs[name]))
        print({name: [round(x, 2) for x in found[-1]] for name, found in pairs.items()}, flush=True)
    return pairs


def judged(name: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """The ratio, its spread, and whether the hypothesis holds, where there is one."""
    ours, theirs = np.array(pairs).T
    low, middle, high = np.quantile(theirs / ours, (0.25, 0.5, 0.75))
    kind, precision = name.split()
    claimed = kind != "command" and precision in JOBS
    return {
        "ratio": round(float(middle), 3),
        "quartiles": [round(float(low), 3), round(float(high), 3)],
        "pairs": len(pairs),
        "holds": bool(middle >= CLAIMED) if claimed else None,
        "seconds": {"this": ours.round(3).tolist(), "other": theirs.round(3).tolist()},
    }


def same(this: Version, other: Version) -> dict[str, float]:
    """Shares of rows for which both say the same in fp32."""
    ours, theirs = (version.ask("answers", "fp32") for version in (this, other))
    return {name: round(float(np.equal(ours[name], theirs[name]).mean()), 4) for name in ours} | {
        "exits": np.bincount(ours["exit"]).tolist()
    }


@click.command()
@click.option("--against", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Parquet, with text.")
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The JSON file.")
@click.option("--rows", default=800, show_default=True, help="Of the engine.")
@click.option("--rounds", default=12, show_default=True, help="Of the engine.")
@click.option("--job-rows", default=2_560, show_default=True)
@click.option("--slice-rows", default=128, show_default=True)
@click.option("--job-rounds", default=4, show_default=True)
def main(
    against: Path,
    data: Path | None,
    work: Path,
    output: Path,
    rows: int,
    rounds: int,
    job_rows: int,
    slice_rows: int,
    job_rounds: int,
) -> None:
    """See the top of this file."""
    print(machine("ray"), flush=True)
    started, work = time.monotonic(), work.resolve()
    shutil.rmtree(work / "corpus", ignore_errors=True)
    (work / "corpus").mkdir(parents=True)
    most = max(rows, job_rows)
    texts = pq.read_table(data)["text"].to_pylist() if data else random_texts(most, longest=80)
    texts = [texts[i % len(texts)] for i in range(most)]
    few, corpus = work / "few.parquet", work / "corpus" / "texts.parquet"
    pq.write_table(pa.table({"text": texts[:rows]}), few)
    pq.write_table(pa.table({"text": texts[:job_rows], "id": range(job_rows)}), corpus)
    make_checkpoint(work / "model", texts)
    with (
        Version(ROOT, work / "model", few, work) as this,
        Version(against.resolve(), work / "model", few, work) as other,
    ):
        agreement = same(this, other)
        print(this.name, other.name, agreement, flush=True)
        pairs: dict[str, list[tuple[float, float]]] = {}
        for precision in ENGINES:
            for version in (this, other):
                version.engine(precision)  # warm-up
            pairs |= in_turns(
                lambda p=precision: this.engine(p), lambda p=precision: other.engine(p), rounds
            )
        threads = this.hello["threads"]
    for precision in JOBS:
        pairs |= in_turns(
            lambda p=precision: this.job(p, corpus.parent, slice_rows),
            lambda p=precision: other.job(p, corpus.parent, slice_rows),
            job_rounds,
        )
    found = {
        "command": "python -m benchmarks.speed.versions --against OTHER "
        + (f"--data {data.parent.name}/{data.name} " if data else "")
        + f"--rows {rows} --rounds {rounds} --job-rows {job_rows} --slice-rows {slice_rows} "
        f"--job-rounds {job_rounds} --work WORK --output benchmarks/results/versions.json",
        "machine": machine("ray", "numpy", "pyarrow"),
        "bf16_in_hardware": supports("bf16", "cpu"),
        "threads": threads,
        "this": this.name,
        "other": other.name,
        "claimed_ratio": CLAIMED,
        "same_in_fp32": agreement,
        "results": {name: judged(name, values) for name, values in pairs.items()},
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    output.write_text(json.dumps(found, indent=1) + "\n")
    for name, result in found["results"].items():
        print(f"{name}: {result['ratio']} {result['quartiles']} {result['holds']}")
    raise SystemExit(any(result["holds"] is False for result in found["results"].values()))


if __name__ == "__main__":
    main()
