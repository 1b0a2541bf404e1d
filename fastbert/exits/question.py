"""Questions of a checkpoint: a label, several labels, or a score."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec
import pyarrow as pa

from fastbert.errors import InputError, explained

Kind = Literal["single-label", "several-labels", "score"]
#: Their names in Hugging Face.
PROBLEM_TYPES: dict[Kind, str] = {
    "single-label": "single_label_classification",
    "several-labels": "multi_label_classification",
    "score": "regression",
}
KINDS: dict[str, Kind] = {problem: kind for kind, problem in PROBLEM_TYPES.items()}

#: Columns of an answer; the first one is audited.
ANSWERS: dict[Kind, pa.Schema] = {
    "single-label": pa.schema([("label", pa.string()), ("score", pa.float32())]),
    "several-labels": pa.schema(
        [("labels", pa.list_(pa.string())), ("label_scores", pa.list_(pa.float32()))]
    ),
    "score": pa.schema([("value", pa.float32())]),
}


#: All possible names of a question's columns, of any kind.
_COLUMNS = sorted(
    {"exit_layer", "uncertainty", "scores"}
    | {name for schema in ANSWERS.values() for name in schema.names}
    | {f"audit_{schema.names[0]}" for schema in ANSWERS.values()}
)


def prefix(name: str) -> str:
    """Prefix of the columns of the question with this name; empty for the only question."""
    return f"{name}_" if name else ""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question that a checkpoint answers for every row."""

    kind: Kind = "single-label"
    #: For several questions: the prefix of its columns.
    name: str = ""
    #: Its number of the checkpoint's classes, after those of the questions before. None: all.
    classes: int | None = None
    #: Of several labels, by class: the lowest probability at which a row has it. None: 0.5 for all.
    cutoffs: list[float] | None = None
    #: Of a score: heads give (score - `centre`) / `scale`.
    centre: float = 0.0
    scale: float = 1.0


def questions_of(
    values: Sequence[dict[str, Any]] | None, problem_type: str | None
) -> tuple[Question, ...]:
    """The questions in a checkpoint's config.json, by default one for the `problem_type`, or for a
    single label.

    Raises InputError where they make no sense.
    """
    if values is None:
        return (Question(KINDS.get(problem_type or "", "single-label")),)
    advice = "expected objects like {'kind': 'several-labels'}"
    with explained("the checkpoint's questions cannot be read", advice, msgspec.ValidationError):
        questions = msgspec.convert(values, tuple[Question, ...])
    names = [question.name for question in questions]
    whole = len(questions) == 1 or all(names) and all(each.classes for each in questions)
    if not questions or not whole or len({*names}) < len(names):
        raise InputError(
            f"the checkpoint's questions are named {names}, expected one, or several with "
            "different names and their numbers of classes"
        )
    check_names(names)
    return questions


def question_name(place: str) -> str:
    """The name of a question, from the folder, URL or hub id of its classifier: the last part, with
    underscores for characters other than letters and digits."""
    return re.sub(r"\W", "_", PurePosixPath(place).name)


def check_names(names: Sequence[str]) -> None:
    """Raises InputError for names of questions that give two columns the same name in SQL, which
    does not distinguish `Topic` from `topic`."""
    columns = Counter(f"{prefix(name)}{column}".casefold() for name in names for column in _COLUMNS)
    if twice := [column for column, times in columns.items() if times > 1]:
        raise InputError(
            f"the questions are named {', '.join(names)}, so two columns of the output would have "
            f"the name '{twice[0]}'; give them other names: with --question of fastbert distill, "
            "or by renaming the columns of --label-column"
        )
    if odd := [name for name in names if '"' in name or "\0" in name]:
        raise InputError(f"a question is named {odd[0]!r}, expected a name without quotes and NUL")
