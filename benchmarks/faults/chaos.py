"""Kills the labelling job's processes at random, spoils its store, and checks each row afterwards.

Claim: whatever is killed, whenever and however often, the output is in the end the one of an
undisturbed run, row for row; and at every moment before, a reader of `table/` sees only whole
files with the right rows.

    for EXECUTOR in local ray; do
        python -m benchmarks.faults.chaos --work DIR --output benchmarks/results/chaos_local.json \\
            --executor $EXECUTOR --kills driver=33,replica=33,worker=34
        python -m benchmarks.faults.chaos --work DIR --output benchmarks/results/chaos_swift.json \\
            --executor $EXECUTOR --kills driver=8,replica=9,worker=8 --store swift
    done

Each executor writes its own part of the JSON, after each pass; stopped, the same command goes on.
On Ray, raylets may be killed, too.

One pass labels a small corpus into a fresh output, with the same command again and again until it
ends well; meanwhile drivers, replicas, workers (readers and committers) and raylets are killed with
SIGKILL: some before the first commit of a run and after its last, most in between. Passes go on
until all kills are done, and each is compared at its end. With --store swift the output lies on a
one-node OpenStack Swift behind a proxy that refuses, delays, cuts and throttles connections and
answers 503; a reader that is not disturbed watches past it. Exit code 1: something differed, or the
job ended as it should not; the output is then kept.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from support.formats import ENCODED
from support.models import tiny_fastbert, tiny_tokenizer
from support.object_store import REGION, ObjectStore
from support.shards import random_texts

from benchmarks import ROOT
from benchmarks.faults.exactly_once import (
    LocalView,
    S3View,
    Tables,
    View,
    Watch,
    differences,
    read_tables,
    rows_quarantined,
    vouching,
)
from benchmarks.faults.faultproxy import HOST, FaultProxy
from benchmarks.faults.processes import KINDS, Family
from benchmarks.faults.storm import Storm, Tally, Weather
from benchmarks.support.measure import machine
from fastbert.weights import save_checkpoint

#: At this speed about half of the rows leave the tiny model early.
SPEED = 0.4
SLICE_ROWS = 10
BUCKET = "chaos"


@dataclass(frozen=True)
class Place:
    """Where the outputs of passes lie, and how they are reached."""

    root: str
    environment: dict[str, str]
    store: ObjectStore | None = None
    proxy: FaultProxy | None = None

    def view(self, number: int) -> View:
        """What a reader sees of a pass, past the proxy."""
        if self.store is None:
            return LocalView(Path(self.root) / f"pass-{number}")
        return S3View(
            f"{BUCKET}/pass-{number}",
            self.store.endpoint_url,
            self.store.access_key,
            self.store.secret_key,
            REGION,
        )


@contextlib.contextmanager
def open_place(store: str, work: Path) -> Iterator[Place]:
    """A local folder, or a running store with a proxy before it."""
    environment = {name: text for name, text in os.environ.items() if name != "RAY_ADDRESS"}
    if store == "local":
        yield Place(str(work / "outputs"), environment)
        return
    with ObjectStore(work / "store") as swift:
        swift.make_bucket(BUCKET)
        with FaultProxy(int(swift.endpoint_url.rpartition(":")[2])) as proxy:
            address = {"AWS_ENDPOINT_URL": f"http://{HOST}:{proxy.port}"}
            yield Place(f"s3://{BUCKET}", environment | swift.environment | address, swift, proxy)


#: Of shards, in turn.
ENDINGS = ("parquet", "json.gz", "parquet", "csv")


def write_corpus(folder: Path, rows: int, rng: np.random.Generator) -> int:
    """Shards of odd sizes and several formats in hive folders, with rows without text; returns how
    many shards."""
    first, shards = 0, 0
    while first < rows:
        count = min(int(rng.integers(7, 132)), rows - first)
        texts: list[str | None] = [*random_texts(count, seed=int(rng.integers(2**31)))]
        for row in np.flatnonzero(rng.random(count) < 0.02):
            texts[row] = None
        ending = ENDINGS[shards % len(ENDINGS)]
        path = folder / f"dt=2026-11-{20 + shards % 3}" / f"part-{shards}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = range(first, first + count)
        path.write_bytes(ENCODED[f"x.{ending}"](pa.table({"text": texts, "id": ids})))
        first, shards = first + count, shards + 1
    return shards


def write_checkpoint(folder: Path) -> None:
    """A checkpoint of three layers of 36."""
    folder.mkdir(parents=True)
    save_checkpoint(tiny_fastbert(), tiny_tokenizer(folder), str(folder))


def label_command(work: Path, output: str, more: list[str]) -> list[str]:
    """The job, as a user starts it."""
    return [
        sys.executable, str(ROOT / "jobs" / "label.py"), "--input", str(work / "corpus"),
        "--output", output, "--model", str(work / "checkpoint"), "--speed", str(SPEED),
        "--slice-rows", str(SLICE_ROWS), "--max-bad-rows", "0.5", "--audit-rate", "0.3",
        "--cpus-per-replica", "1", *more,
    ]  # fmt: skip


def undisturbed(
    command: list[str], environment: dict[str, str], output: Path
) -> tuple[Tables, dict[str, str]]:
    """The table of one undisturbed run, and which record belongs to which file."""
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"the undisturbed run failed:\n{done.stderr[-4000:]}")
    view = LocalView(output)
    tables = read_tables(view)
    if wrong := differences(view, tables):
        raise click.ClickException(f"the undisturbed output is wrong: {wrong[:5]}")
    return tables, vouching(tables)


def parse_kills(_: click.Context, __: click.Parameter, text: str) -> dict[str, int]:
    """`driver=4,raylet=1` as a mapping."""
    kills = {}
    for part in filter(None, text.split(",")):
        kind, _equals, number = part.partition("=")
        if kind not in KINDS or not number.isdigit():
            raise click.BadParameter(f"'{part}'; expected KIND=N with KIND of {', '.join(KINDS)}")
        kills[kind] = int(number)
    return kills


def check_pass(view: View, expected: Tables, watch: Watch, number: int, tally: Tally) -> bool:
    """Compare a pass that has ended; True if all is well."""
    wrong = differences(view, expected) + [f"reader: {text}" for text in watch.wrong]
    tally.rows_quarantined += rows_quarantined(view, expected)
    tally.listings += watch.listings
    tally.files_read += watch.files_read
    tally.reader_store_errors += watch.store_errors
    for text in wrong[:20]:
        print(f"pass {number}: {text}", file=sys.stderr)
    tally.failed_checks += [f"pass {number}: {text[:500]}" for text in wrong[:20]]
    return not wrong


def run_passes(
    place: Place,
    storm: Storm,
    expected: Tables,
    records: dict[str, str],
    command: Callable[[str], list[str]],
    environment: dict[str, str],
    save: Callable[[], None],
) -> None:
    """Pass after pass, until all kills are done; `save` is called after each."""
    tally = storm.tally
    while tally.passes == 0 or storm.left.total() > 0:
        number = tally.passes = tally.passes + 1
        target = f"{place.root}/pass-{number}"
        watch = Watch(place.view(number), expected, records)
        watch.start()
        storm.until_done(command(target), environment, watch)
        watch.stop()
        well = check_pass(place.view(number), expected, watch, number, tally)
        print(f"pass {number}: {'well' if well else 'WRONG'} {dict(tally.kills)}", file=sys.stderr)
        if well and place.store is None:
            shutil.rmtree(target)
        save()
        for session in Path(environment["RAY_TMPDIR"]).iterdir():  # logs, megabytes per run
            shutil.rmtree(session, ignore_errors=True)


def report(tally: Tally, proxy: FaultProxy | None, facts: dict[str, Any]) -> dict[str, Any]:
    """The executor's part of the JSON."""
    if proxy:
        proxied = Counter(facts["proxy_before"]) + Counter(proxy.counts)
        facts = facts | {"proxy": dict(proxied)}
    return facts | {
        "total_kills": tally.kills.total(),
        "kills_per_minute": round(60 * tally.kills.total() / max(tally.seconds, 1), 2),
        **vars(tally),
    }


def program(
    store: str, executor: str, kills: dict[str, int], seed: int, rows: int, label_options: str
) -> str:
    """The command line that gives this JSON, without places."""
    numbers = ",".join(f"{kind}={n}" for kind, n in kills.items())
    options = [
        "--store",
        store,
        "--executor",
        executor,
        "--kills",
        numbers,
        "--seed",
        seed,
        "--corpus-rows",
        rows,
    ]
    if label_options:
        options += ["--label-options", label_options]
    return "python -m benchmarks.faults.chaos " + shlex.join(map(str, options))


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Where to work.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The JSON file.")
@click.option(
    "--kills",
    default="driver=33,replica=33,worker=34",
    show_default=True,
    callback=parse_kills,
    help="How many of each kind: driver, replica, worker, raylet.",
)
@click.option("--store", type=click.Choice(["local", "swift"]), default="local", show_default=True)
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local")
@click.option("--seed", default=0, show_default=True, help="Of every random choice.")
@click.option("--corpus-rows", default=3000, show_default=True)
@click.option("--label-options", default="", help="More options for the job, as one text.")
def main(
    work: Path,
    output: Path,
    kills: dict[str, int],
    store: str,
    executor: str,
    seed: int,
    corpus_rows: int,
    label_options: str,
) -> None:
    """See the top of this file."""
    if executor == "local" and kills.get("raylet"):
        raise click.UsageError("there is no raylet without Ray; pass --executor ray")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    work, output, rng = work.absolute(), output.absolute(), np.random.default_rng(seed)
    known: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    before = known.get(executor, {})
    command_line = program(store, executor, kills, seed, corpus_rows, label_options)
    if before.get("command") != command_line:
        before = {}
    elif before["complete"]:
        raise click.UsageError(
            f"{output} has all kills of this command; remove it, or ask for others"
        )
    for folder in ("corpus", "checkpoint", "outputs", "undisturbed", "store", "logs"):
        shutil.rmtree(work / folder, ignore_errors=True)
    (work / "logs").mkdir(parents=True)
    shards = write_corpus(work / "corpus", corpus_rows, rng)
    write_checkpoint(work / "checkpoint")
    more = ["--slice-attempts", "50", "--executor", executor, *shlex.split(label_options)]
    tally = Tally.of(before)
    rng = np.random.default_rng([seed, tally.runs])

    def command(target: str) -> list[str]:
        return label_command(work, target, more)

    with (
        tempfile.TemporaryDirectory(prefix="ray") as ray_folder,  # its sockets want short paths
        open_place(store, work) as place,
    ):
        family = Family()
        environment = place.environment | {"RAY_TMPDIR": ray_folder}
        try:
            calm = work / "undisturbed"
            expected, records = undisturbed(command(str(calm)), environment, calm)
            family.wait_until_gone(20)
            weather = Weather(rng, place.proxy, tally) if place.proxy else None
            storm = Storm(rng, kills, family, weather, tally, len(expected), work / "logs")
            storm.left -= tally.kills
            facts = {
                "command": command_line,
                "seed": seed,
                "machine": machine("ray", "pyarrow"),
                "corpus": {"rows": corpus_rows, "shards": shards, "slices": len(expected)},
                "label_options": more,
                "proxy_before": before.get("proxy", {}),
            }
            started = time.monotonic() - tally.seconds

            def save() -> None:
                tally.seconds = round(time.monotonic() - started)
                part = report(tally, place.proxy, facts | {"complete": storm.left.total() <= 0})
                del part["proxy_before"]
                output.write_text(json.dumps(known | {executor: part}, indent=1) + "\n")

            run_passes(place, storm, expected, records, command, environment, save)
        finally:
            family.wait_until_gone(0)
    print(output.read_text())
    raise SystemExit(1 if tally.wrong() else 0)


if __name__ == "__main__":
    main()
