"""The meaning of logits: kinds of questions that a classifier can answer, one file each."""

from collections.abc import Sequence

from fastbert.exits.question import Question
from fastbert.tasks.score import Score
from fastbert.tasks.several_labels import SeveralLabels
from fastbert.tasks.single_label import SingleLabel
from fastbert.tasks.task import Task

_TASKS: dict[str, type[SingleLabel] | type[SeveralLabels] | type[Score]] = {
    "single-label": SingleLabel,
    "several-labels": SeveralLabels,
    "score": Score,
}


def task_of(question: Question, names: Sequence[str]) -> Task:
    """The task for a question, with the names of its classes by index, or of its score."""
    return _TASKS[question.kind](names, question)
