"""What the labels of a slice depend on, beside its shard: the `recipe` of its record."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from pipelines.output.schema import SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The identity of a labelling: an output goes on only with the one that it was begun with."""

    checkpoint: str  # fingerprint
    criterion: str
    thresholds: list[float]  # of the exits but the last
    exit_depths: list[int]  # of all exits, in layers; records without them have 1, 2, ... L
    text_column: str
    pair_column: str | None
    carry: list[str] | None  # None: all columns but the texts
    max_length: int  # in tokens
    truncated: bool = False  # whether there is a column that tells where a text was cut
    schema_version: int = SCHEMA_VERSION

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """As a record holds it."""
        return asdict(self)

    def difference(self, recipe: dict[str, Any]) -> tuple[str, Any, Any] | None:
        """The first key in which a record's recipe differs, what it has, and what this one has.

        Recipes may be of earlier and of later versions: keys that only one of both has count, too.
        """
        mine = self.recipe
        if recipe == mine:
            return None
        recipe = {"truncated": False} | recipe
        thresholds = recipe.get("thresholds")
        if "exit_depths" not in recipe and isinstance(thresholds, list):
            recipe = recipe | {"exit_depths": list(range(1, len(thresholds) + 2))}
        for key in sorted(recipe.keys() | mine.keys()):
            if recipe.get(key) != mine.get(key):
                return key, recipe.get(key), mine.get(key)
        return None
