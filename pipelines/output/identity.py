"""What the labels of a slice depend on, beside its shard: the `recipe` of its record."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from fastbert.exits.operating_point import WHERE
from fastbert.exits.question import Kind
from fastbert.exits.rules import Threshold
from fastbert.exits.windows import Windows, windows_of
from pipelines.output.schema import SCHEMA_VERSION

#: What may differ from file to file of an output, where `--on-change new` allows it: which model
#: answers, and where rows leave it. All else is about texts and columns, which files have alike.
MAY_CHANGE = {"checkpoint", "exit_depths", "questions", *WHERE}
#: What recipes of earlier releases do not say.
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
    """The identity of a labelling: each file of an output is of one."""

    checkpoint: str  # fingerprint
    criterion: str
    thresholds: list[float]  # of the exits but the last
    temperatures: list[float] | None = None  # of the exits but the last
    within: list[float] | None = None  # of a score: the tolerance, or the cut-offs
    #: Where several questions are asked, the four above of each, by name.
    questions: dict[str, dict[str, Any]] | None = None
    #: Of the questions that the checkpoint answers, by name.
    kinds: dict[str, Kind] = field(default_factory=lambda: {"": "single-label"})
    exit_depths: list[int]  # of all exits, in layers; records without them have 1, 2, ... L
    text_column: str
    pair_column: str | None
    carry: list[str] | None  # None: all columns but the texts
    max_length: int  # in tokens
    windows: dict[str, Any] | None = None  # how longer texts are read
    truncated: bool = False  # whether there is a column that tells where a text was cut
    all_scores: bool = False  # and one of the probabilities of all classes
    classes: list[str] | None = None  # which these are, of all questions
    schema_version: int = SCHEMA_VERSION

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """As a record holds it."""
        return asdict(self)

    @property
    def windowing(self) -> Windows | None:
        """How texts are read that are longer."""
        return windows_of(self.windows, self.max_length)

    @property
    def rules(self) -> list[Threshold]:
        """What the engine does, by question."""
        own = {key: getattr(self, key) for key in WHERE}
        each = self.questions.values() if self.questions else [own]
        return [Threshold.of(**{key: values[key] for key in WHERE}) for values in each]

    def differences(self, recipe: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """By key in which a record's recipe differs: what it has, and what this one has.

        Recipes may be of earlier and of later versions: keys that only one of both has count, too.
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
        """Whether files of a record's recipe may stand beside those of this identity."""
        return self.differences(recipe).keys() <= MAY_CHANGE


def questions_text(identity: Identity) -> str | None:
    """Where rows leave for each of several questions, as JSON; None for one."""
    return None if identity.questions is None else json.dumps(identity.questions)
