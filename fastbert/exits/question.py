"""What a checkpoint is asked: a label, several labels, or a score."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
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


#: All that the columns of a question may be called, whatever its kind.
_COLUMNS = sorted(
    {"exit_layer", "uncertainty", "scores"}
    | {name for schema in ANSWERS.values() for name in schema.names}
    | {f"audit_{schema.names[0]}" for schema in ANSWERS.values()}
)


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
    check_names(names)
    return questions


def question_name(place: str) -> str:
    """What a question is called, after the folder, URL or hub id of the classifier that answers it:
    the last part of that, with an underscore for all that is neither letter nor digit."""
    return re.sub(r"\W", "_", PurePosixPath(place).name)


def check_names(names: Sequence[str]) -> None:
    """Raises InputError for names of questions of which two columns would be called alike, in SQL,
    which does not tell `Topic` from `topic`."""
    columns = Counter(f"{prefix(name)}{column}".casefold() for name in names for column in _COLUMNS)
    if twice := [column for column, times in columns.items() if times > 1]:
        raise InputError(
            f"the questions are called {', '.join(names)}, so two columns of the output would be "
            f"called '{twice[0]}'; give them other names: --question of fastbert distill, or other "
            "names of the columns that --label-column takes"
        )
    if odd := [name for name in names if '"' in name or "\0" in name]:
        raise InputError(f"a question is called {odd[0]!r}, expected a name without quotes and NUL")
