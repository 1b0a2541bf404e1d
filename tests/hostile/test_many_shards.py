"""Very many shards."""

import os
from time import process_time

import psutil
import pyarrow.parquet as pq
import pytest
from support.records import holding, identity

from hostile.harness import (
    GOOD,
    numbered,
)
from pipelines.input.columns import InputColumns
from pipelines.input.shards import find_shards
from pipelines.labelling.plan import make_plan


@pytest.mark.integration
def test_a_hundred_thousand_shards_are_planned_quickly(tmp_path, request):
    """As many with `--fuzz-minutes`; a fifth of them as a rule, for time."""
    count = 100_000 if request.config.getoption("--fuzz-minutes") else 20_000
    one = [tmp_path / f"{k}.tmp" for k in range(4)]  # a file has so many links at most
    for path in one:
        pq.write_table(numbered(GOOD), path)
    for k in range(count):
        if k % 1000 == 0:
            folder = tmp_path / "in" / f"dt={k // 1000}"
            folder.mkdir(parents=True)
        os.link(one[k % 4], folder / f"part-{k:06d}.parquet")
    process = psutil.Process()
    before, started = process.memory_info().rss, process_time()
    shards = find_shards([str(tmp_path / "in")])
    plan = make_plan(shards, holding([]), identity(), InputColumns(), 1000, "refuse")
    assert len(plan.todo) == count
    assert process_time() - started < 200  # seconds of CPU; quadratic would be hours
    assert process.memory_info().rss - before < 500 << 20
