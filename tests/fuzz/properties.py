"""Examples of properties, and shards that are never opened."""

from hypothesis import HealthCheck, settings

from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, ShardError


def examples(number: int) -> settings:
    """Hypothesis settings: so many examples a round, others each time."""
    return settings(
        max_examples=number,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Known(InputColumns):
    """Columns of shards that are never opened."""

    rows: dict[str, int | None] = {}

    def check(self, shard: Shard) -> int:
        rows = self.rows[shard.name]
        if rows is None:
            raise ShardError("spoiled")
        return rows
