"""Everything that a slice's labels depend on besides its shard: the `recipe` of its record."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from fastbert.exits.operating_point import WHERE
from fastbert.exits.question import Kind
from fastbert.exits.rules import Threshold
from fastbert.exits.windows import Windows, windows_of
from pipelines.output.schema import SCHEMA_VERSION

#: Fields that may differ between files of an output if `--on-change new` allows it: the model, and
#: where rows leave it. The other fields are about texts and columns, equal in all files.
MAY_CHANGE = {"checkpoint", "exit_depths", "questions", *WHERE}
#: Fields that recipes of earlier releases lack.
_FORMERLY = {
    "truncated": False,
    "temperatures": None,
    "within": None,
    "questions": None,
    "kinds": {"": "single-label"},
    "all_scores": False,
    "classes": None,
    "windows": None,
}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The identity of a labelling: each file of an output has one."""

    checkpoint: str  # fingerprint
    criterion: str
    thresholds: list[float]  # of all exits except the last
    temperatures: list[float] | None = None  # of all exits except the last
    within: list[float] | None = None  # of a score: the tolerance, or the cut-offs
    #: For several questions, the four fields above for each, by name.
    questions: dict[str, dict[str, Any]] | None = None
    #: The questions that the checkpoint answers, by name.
    kinds: dict[str, Kind] = field(default_factory=lambda: {"": "single-label"})
    exit_depths: list[int]  # of all exits, in layers; records without them have 1, 2, ... L
    text_column: str
    pair_column: str | None
    carry: list[str] | None  # None: all columns except the texts
    max_length: int  # in tokens
    windows: dict[str, Any] | None = None  # how longer texts are read
    truncated: bool = False  # whether a column marks truncated texts
    all_scores: bool = False  # whether a column has the probabilities of all classes
    classes: list[str] | None = None  # the classes of all questions
    schema_version: int = SCHEMA_VERSION

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe in a record."""
        return asdict(self)

    @property
    def windowing(self) -> Windows | None:
        """How longer texts are read."""
        return windows_of(self.windows, self.max_length)

    @property
    def rules(self) -> list[Threshold]:
        """The rules of the engine, by question."""
        own = {key: getattr(self, key) for key in WHERE}
        each = self.questions.values() if self.questions else [own]
        return [Threshold.of(**{key: values[key] for key in WHERE}) for values in each]

    def differences(self, recipe: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """By key in which a record's recipe differs: its value, and the value here.

        Recipes may be of earlier or later releases: keys that only one of both has also count.
        """
        mine = self.recipe
        if recipe == mine:
            return {}
        recipe = _FORMERLY | recipe
        thresholds = recipe.get("thresholds")
        if "exit_depths" not in recipe and isinstance(thresholds, list):
            recipe = recipe | {"exit_depths": list(range(1, len(thresholds) + 2))}
        keys = sorted(recipe.keys() | mine.keys())
        pairs = {key: (recipe.get(key), mine.get(key)) for key in keys}
        return {key: (theirs, ours) for key, (theirs, ours) in pairs.items() if theirs != ours}

    def goes_with(self, recipe: dict[str, Any]) -> bool:
        """Whether an output may have files of a record's recipe and of this identity."""
        return self.differences(recipe).keys() <= MAY_CHANGE


def questions_text(identity: Identity) -> str | None:
    """Where rows leave for each of several questions, as JSON; None for one."""
    return None if identity.questions is None else json.dumps(identity.questions)
