"""The labelling job: its settings for tests, its command line and its table."""

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.checkpoints.settings import LabelAnySettings
from pipelines.output.storage import Storage
from pipelines.settings import LabelSettings
from support import ROOT


def settings(corpus, output, checkpoint, **changes) -> LabelSettings:
    return LabelSettings(**_defaults(corpus, output) | {"model": checkpoint} | changes)


def any_settings(corpus, output, *models, **changes) -> LabelAnySettings:
    """Of the command, which takes several models, and such without exits."""
    asked = {"model": tuple(map(str, models))} | changes
    return LabelAnySettings(**_defaults(corpus, output) | asked)


def _defaults(corpus, output) -> dict[str, Any]:
    return dict(
        input=(str(corpus),),
        output=str(output),
        slice_rows=10,
        max_bad_rows=0.5,
        cpus_per_replica=1,
        precision="fp32",
    )


def table_of(output: str | Path) -> pa.Table:
    """The labelled rows in the order of shards and rows."""
    storage = Storage(str(output))
    parts = storage.read(sorted(storage.paths("table", "")))
    return pa.concat_tables(pq.read_table(pa.BufferReader(data)) for data in parts.values())


def label_command(corpus, output, checkpoint, speed, *more) -> list[str]:
    return [
        sys.executable, str(ROOT / "jobs" / "label.py"), "--input", str(corpus), "--output",
        str(output), "--model", checkpoint, "--speed", repr(speed), "--slice-rows", "10",
        "--max-bad-rows", "0.5", "--audit-rate", "0.3", "--cpus-per-replica", "1",
        "--precision", "fp32", *more,
    ]  # fmt: skip
