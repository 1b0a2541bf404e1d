"""A shard that changes between plan and read."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.shards import write_shard

from hostile.harness import (
    GOOD,
    TEXTS,
    Expected,
    bad_file,
    check_rows,
    numbered,
    rows_of,
    write,
)


def slices_of(summary: dict[str, Any]) -> tuple[int, int]:
    """Slices labelled, and up to date."""
    return summary["slices_labelled"], summary["slices_up_to_date"]


CHANGES: dict[str, Callable[[Path], object]] = {
    "shrunk": lambda path: pq.write_table(numbered(TEXTS[:3]), path),
    "grown": lambda path: pq.write_table(numbered(TEXTS * 2), path),
    "replaced": lambda path: pq.write_table(numbered(TEXTS[::-1]), path),
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, 200),
    "removed": lambda path: path.unlink(),
    "other-columns": lambda path: pq.write_table(pa.table({"body": TEXTS}), path),
    "other-types": lambda path: pq.write_table(numbered(range(20)), path),
    "a-folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_between_plan_and_read(change, tmp_path, job):
    """What this run makes of it, the next one puts right."""
    folder = tmp_path / "in"
    write_shard(folder / "good.parquet", GOOD)
    write(folder, numbered(TEXTS))
    path = folder / "x.parquet"
    summary = job(meanwhile=lambda: CHANGES[change](path), slice_rows=5)
    assert rows_of(tmp_path / "out", "good").num_rows == len(GOOD)
    for url, reason in summary["bad_shards"].items():
        assert bad_file(url, tmp_path) == "x.parquet"
        assert re.search("cannot be read|changed while it was read|has no column|of type", reason)
    second = job(slice_rows=5, prune=True)
    third = job(slice_rows=5, prune=True)
    assert slices_of(third)[0] == 0
    assert third["bad_shards"] == second["bad_shards"]
    if path.is_file() and not third["bad_shards"]:
        check_rows(rows_of(tmp_path / "out", "x"), pq.read_table(path), Expected(), job.kinds)
    elif not path.is_file():
        assert not list((tmp_path / "out" / "table").glob("x.*"))
