"""Examples of properties, and shards that are never opened."""

from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from support.shards import SCAN, scan_of

from pipelines.input.columns import InputColumns
from pipelines.input.formats.format import Scan
from pipelines.input.shards import Shard
from pipelines.input.unreadable import ShardError
from pipelines.labelling.plan import Plan, make_plan


def examples(number: int) -> settings:
    """Hypothesis settings: so many examples a round, others each time."""
    return settings(
        max_examples=number,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def plan_of(rows: dict[str, int | None], shards: list[Shard], *arguments: Any) -> Plan:
    """That of shards that are never opened, with so many rows, or None: spoiled."""

    def scan(shard: Shard, columns: InputColumns) -> Scan:
        if (found := rows[shard.name]) is None:
            raise ShardError("spoiled")
        return scan_of(found)

    with mock.patch(SCAN, scan):
        return make_plan(shards, *arguments)
