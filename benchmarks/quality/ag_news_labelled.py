"""The AG News test set through `ray job submit`, to a folder and to S3, against the reference.

Hypothesis: row count and order equal the input's, and every row equals the slow reference (see
check_against_reference.py), on both file systems. Starts a one-node Ray cluster and the object
store Swift, both on loopback, and stops them again.

    python -m benchmarks.quality.ag_news_labelled --data DIR --model DIR --work DIR \\
        --output benchmarks/results/ag_news_labelled.json
"""

import json
import os
import sys
from pathlib import Path

import click
import fsspec
import pyarrow.parquet as pq
from support.object_store import ObjectStore
from support.ray_head import running_head

from benchmarks.quality.check_against_reference import compare
from benchmarks.support.measure import machine
from fastbert.checkpoint import fingerprint

SHARDS, SPEED = 8, 0.5


def write_shards(data: Path, folder: Path) -> None:
    """The test set as eight shards in four hive folders."""
    table = pq.read_table(data / "test.parquet")
    rows = -(-table.num_rows // SHARDS)
    for k in range(SHARDS):
        path = folder / f"dt=2026-11-{21 + k // 2}" / f"part-{k % 2}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(k * rows, rows), path)


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(data: Path, model: Path, work: Path, output: Path) -> None:
    """Label twice, compare, write JSON."""
    write_shards(data, work / "in")
    with ObjectStore(work / "store") as store, running_head(**store.environment) as head:
        store.make_bucket("lake")
        os.environ.update(store.environment)
        s3 = fsspec.filesystem("s3")
        s3.put(f"{work}/in/", "lake/in/", recursive=True)
        s3.put(f"{model}/", "lake/model/", recursive=True)
        outputs = [str(work / "out"), "s3://lake/out"]
        for place in (
            f"{work}/in {model} {work}/out",
            "s3://lake/in s3://lake/model s3://lake/out",
        ):
            source, checkpoint, target = place.split()
            job = head.submit(
                *("--input", source, "--model", checkpoint, "--output", target),
                *("--speed", SPEED, "--precision", "fp32"),
            )
            print(job.stdout[-3000:], job.stderr[-2000:], file=sys.stderr)
            job.check_returncode()
        runs = compare(f"{work}/in", outputs, str(model), SPEED)
    command = (
        "ray job submit --working-dir . -- python jobs/label.py --input ag_news_shards "
        f"--model models/ag_news --output labels --speed {SPEED} --precision fp32"
    )
    result = {
        "command": command,
        "machine": machine("ray", "pyarrow"),
        "checkpoint": fingerprint(model)[:12],
        "speed": SPEED,
        "runs": runs,
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
