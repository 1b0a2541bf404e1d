"""A checkpoint in two lines: texts in, labels out, the same labels as from the labelling job.

model = fastbert.load("models/news")
model.label(["Oil prices fall again"])
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from fastbert.checkpoint import fetch_checkpoint
from fastbert.errors import InputError
from fastbert.exits.operating_point import OperatingPoint
from fastbert.exits.question import Kind, prefix
from fastbert.exits.rules import Threshold
from fastbert.inference import precision as arithmetic
from fastbert.inference.columns import NOT_A_NUMBER, columns
from fastbert.inference.cost import CostModel
from fastbert.inference.decisions import are_numbers, exits_used
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.texts import unusable
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tasks.questions import Asked, Questions
from fastbert.tokenizer import check_room, check_tokenizer
from fastbert.weights import load_checkpoint

Text = str | None | tuple[str | None, str | None]

#: Texts that go through the model together; more are not faster.
_PORTION = 16_384


@dataclass(frozen=True)
class Label:
    """The label of one text; without a label, all fields except the error are None."""

    label: str | None
    score: float | None  # probability of the label
    exit_layer: int | None  # layers that the text passed
    uncertainty: float | None  # at that exit, 0 to 1
    tokens: int | None  # after truncation
    error: str | None  # why there is no label
    truncated: bool | None  # whether the text was longer than these tokens
    windows: int | None = None  # windows of the text, if the model reads by windows
    scores: list[float] | None = None  # of all classes, if asked for


@dataclass(frozen=True)
class Labels:
    """The labels of one text whose probability reaches their cut-off, the likeliest first; other
    fields as in `Label`."""

    labels: list[str] | None
    label_scores: list[float] | None  # their probabilities
    exit_layer: int | None
    uncertainty: float | None
    tokens: int | None
    error: str | None
    truncated: bool | None
    windows: int | None = None
    scores: list[float] | None = None


@dataclass(frozen=True)
class Value:
    """The score of one text; other fields as in `Label`."""

    value: float | None
    exit_layer: int | None
    uncertainty: float | None
    tokens: int | None
    error: str | None
    truncated: bool | None
    windows: int | None = None


_ANSWERS: dict[Kind, type[Label] | type[Labels] | type[Value]] = {
    "single-label": Label,
    "several-labels": Labels,
    "score": Value,
}
#: Fields about a text, not about an answer.
_OF_ROW = ("tokens", "error", "truncated", "windows")


class Classifier:
    """A checkpoint, ready to label texts."""

    def __init__(
        self,
        place: str | Path,
        *,
        device: str | None = None,
        precision: str = "auto",
        operating_point: str | None = None,
        speed: float | None = None,
    ) -> None:
        """The FastBERT checkpoint at `place`: a folder, a URL that fsspec knows, or an id on the
        hub.

        `device` is "cpu" or "cuda", by default a GPU if there is one. `precision` "auto" is the one
        in which an operating point was proven, if the device supports it. `operating_point` or
        `speed` is the default of `label`. Raises InputError, in one line, if there is no such
        checkpoint.
        """
        known = ("auto", *DTYPES)
        if precision not in known:
            raise InputError(f"precision is '{precision}', expected one of {', '.join(known)}")
        if device not in (None, "cpu", "cuda"):
            raise InputError(f"device is '{device}', expected cpu or cuda")
        folder = fetch_checkpoint(str(place))
        self.model, tokenizer = load_checkpoint(folder)
        self.precision = precision
        self.device = device or arithmetic.device()
        arithmetic.resolve(precision, self.device)  # raises here, not at the first text
        self._tokenizer = Tokenizer(tokenizer, self.model.config.windowing)
        self._fits_pairs = False  # unknown yet
        self._engines: dict[tuple[str, str | None], Engine] = {}
        self._point: OperatingPoint | None = None
        if operating_point is not None or speed is not None:
            self._point = self.point(operating_point, speed)

    def point(self, name: str | None = None, speed: float | None = None) -> OperatingPoint:
        """One of the checkpoint's points, or that of a speed; by default that given when loading,
        or the checkpoint's default. Raises InputError if there is none."""
        if name is None and speed is None and self._point is not None:
            return self._point
        if name is not None and speed is not None:
            raise InputError("speed and operating_point exclude each other; pass one of them")
        if speed is not None and not 0 <= speed <= 1:
            raise InputError(f"speed is {speed}, expected a number from 0 to 1")
        return OperatingPoint.asked(self.model.config, speed, name)

    def label(
        self,
        texts: Sequence[Text],
        *,
        speed: float | None = None,
        operating_point: str | None = None,
        as_: Literal["labels", "arrow"] = "labels",
        all_scores: bool = False,
    ) -> Any:
        """The answers to texts, or to pairs of texts, in order: a list of `Label`, `Labels` or
        `Value`, by the kind of checkpoint, or a table with their columns. For several questions,
        the list has a dict for each text, with an answer by question, and columns begin with the
        question's name, as in `topic_label`; `exit_layer` is where the text left.

        `speed` 0 is full depth. `all_scores` adds the probability of every class of
        `model.config.label_names`. A text that is None, empty or not UTF-8 gets an error in place
        of a label. Raises InputError for values that are not texts, and for points that the
        checkpoint lacks.
        """
        point = self.point(operating_point, speed)
        engine, rules = self._engine(point), point.rules()
        questions = self.model.questions
        engine.questions = questions.with_scores() if all_scores else questions
        first, second, errors = _sides(texts)
        if second and not self._fits_pairs:
            check_tokenizer(self._tokenizer.tokenizer, self.model.config.backbone_config(), True)
            check_room(self._tokenizer.tokenizer, self.model.config.max_length, True)
            self._fits_pairs = True
        portions = range(0, max(1, len(first)), _PORTION)
        parts = [
            self._portion(engine, rules, first[i:j], second and second[i:j], errors[i:j])
            for i, j in ((start, start + _PORTION) for start in portions)
        ]
        table = pa.concat_tables(parts).combine_chunks()
        if as_ == "arrow":
            return table
        answers = [_answers(row, questions) for row in table.to_pylist()]
        return answers if len(questions.each) > 1 else [each[""] for each in answers]

    def _portion(
        self,
        engine: Engine,
        rules: list[Threshold],
        first: list[str],
        second: list[str] | None,
        errors: list[str | None],
    ) -> pa.Table:
        good = np.array([error is None for error in errors], bool)
        given = good.copy()
        rows = np.flatnonzero(good)
        pairs = None if second is None else [second[i] for i in rows]
        tokens = self._tokenizer([first[i] for i in rows], pairs, self.model.config.max_length)
        found = engine.answer(tokens, rules)
        answered = are_numbers(found)
        for row in rows[~answered].tolist():
            errors[row] = NOT_A_NUMBER
        good[rows] = answered
        found, lengths = [each.take(answered) for each in found], tokens.costly[answered]
        cost = CostModel(self.model).using(exits_used(rules))
        answers = columns(found, lengths, good, engine.questions, cost)
        if self.model.config.windowing is None:
            del answers["windows"]
        answers["error"] = pa.array(errors, pa.string())
        cut = np.zeros(len(first), bool)
        cut[rows] = tokens.truncated
        answers["truncated"] = pa.array(cut, mask=~given)
        names = [name for asked in engine.questions for name in _names(asked).values()]
        if len(engine.questions.each) > 1:
            names += ["exit_layer", *_OF_ROW]
        return pa.table({name: answers[name] for name in dict.fromkeys(names) if name in answers})

    def _engine(self, point: OperatingPoint) -> Engine:
        """The engine in the requested precision, or in that of the point."""
        precision = arithmetic.resolve(self.precision, self.device, point.proven_in)
        key = precision, point.name if precision == "int8" and point.ranges else None
        if key not in self._engines:
            dtype = DTYPES[precision]
            self._engines[key] = Engine(self.model, self.device, dtype, ranges=point.ranges)
        return self._engines[key]


load = Classifier


def _names(asked: Asked) -> dict[str, str]:
    """The columns of a question's answer in a table, by field."""
    names = [field.name for field in fields(_ANSWERS[asked.task.question.kind])]
    return {name: name if name in _OF_ROW else prefix(asked.name) + name for name in names}


def _answers(row: dict[str, Any], questions: Questions) -> dict[str, Any]:
    """The answers in a row of a table, by question."""
    return {
        asked.name: _ANSWERS[asked.task.question.kind](
            **{name: row[column] for name, column in _names(asked).items() if column in row}
        )
        for asked in questions
    }


def _sides(texts: Sequence[Text]) -> tuple[list[str], list[str] | None, list[str | None]]:
    """First texts, second ones of pairs, and why a text cannot be classified."""
    if isinstance(texts, str):
        raise InputError("texts is one text, expected a list of them")
    rows = list(texts)
    paired = any(isinstance(row, tuple) for row in rows)
    first, second, errors = list[str](), list[str](), list[str | None]()
    for i, row in enumerate(rows):
        sides = row if isinstance(row, tuple) else (row,) * (1 + (paired and row is None))
        if len(sides) != 1 + paired or not all(isinstance(s, str | None) for s in sides):
            expected = "a pair of texts, as others are" if paired else "a text"
            raise InputError(f"texts[{i}] is {type(row).__name__}, expected {expected}")
        reasons = [unusable(side) or _broken(side or "") for side in sides]
        errors.append(next(filter(None, reasons), None))
        first.append(sides[0] or "")
        second.append(sides[-1] or "")
    return first, second if paired else None, errors


def _broken(text: str) -> str | None:
    """Why a text cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"text is not UTF-8: {error.reason} at character {error.start}"
    return None
