"""What a checkpoint is asked: a label, several labels, or a score."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import pyarrow as pa

from fastbert.errors import InputError, explained

Kind = Literal["single-label", "several-labels", "score"]
#: How Hugging Face calls them.
PROBLEM_TYPES: dict[Kind, str] = {
    "single-label": "single_label_classification",
    "several-labels": "multi_label_classification",
    "score": "regression",
}
KINDS: dict[str, Kind] = {problem: kind for kind, problem in PROBLEM_TYPES.items()}

#: What an answer is in a table; the first column is what is audited.
ANSWERS: dict[Kind, pa.Schema] = {
    "single-label": pa.schema([("label", pa.string()), ("score", pa.float32())]),
    "several-labels": pa.schema(
        [("labels", pa.list_(pa.string())), ("label_scores", pa.list_(pa.float32()))]
    ),
    "score": pa.schema([("value", pa.float32())]),
}


def prefix(name: str) -> str:
    """What the columns of a question of this name begin with; nothing, where there is no other."""
    return f"{name}_" if name else ""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question that a checkpoint answers about every row."""

    kind: Kind = "single-label"
    #: Where several are asked, what its columns begin with.
    name: str = ""
    #: And how many of the checkpoint's classes, behind those of the questions before. None: all.
    classes: int | None = None
    #: Of several labels, by class: the probability from which on a row has it. None: 0.5 for all.
    cutoffs: list[float] | None = None
    #: Of a score: heads give how many times `scale` it lies above `centre`.
    centre: float = 0.0
    scale: float = 1.0


def questions_of(
    values: Sequence[dict[str, Any]] | None, problem_type: str | None
) -> tuple[Question, ...]:
    """Those of a checkpoint's config.json, by default one for the `problem_type`, and without that
    for a single label.

    Raises InputError where they make no sense.
    """
    if values is None:
        return (Question(KINDS.get(problem_type or "", "single-label")),)
    advice = "expected some like {'kind': 'several-labels'}"
    with explained("the checkpoint's questions cannot be read", advice, msgspec.ValidationError):
        questions = msgspec.convert(values, tuple[Question, ...])
    names = [question.name for question in questions]
    whole = len(questions) == 1 or all(names) and all(each.classes for each in questions)
    if not questions or not whole or len({*names}) < len(names):
        raise InputError(
            f"the checkpoint's questions are called {names}, expected one, or several with names "
            "of their own and their numbers of classes"
        )
    return questions
