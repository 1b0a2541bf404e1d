"""Questions of a new checkpoint, from its labels or the classifier that it is made of."""

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from fastbert.configuration import asked_of, label_names
from fastbert.errors import InputError
from fastbert.exits.question import PROBLEM_TYPES, Kind, Question
from fastbert.inference.engine import Engine
from fastbert.inference.precision import device
from fastbert.inference.tokenizer import Tokenizer
from fastbert.model import FastBertForSequenceClassification
from fastbert.tasks.questions import Questions
from fastbert.training.examples import Examples
from pipelines.input.columns import listed
from pipelines.input.examples import Found

log = logging.getLogger(__name__)

#: Number of texts that a classifier answers before training.
_FIRST = 512
#: Share of them with no probability above one half, or several, at which a classifier of one label
#: looks like one of several.
_ODD = 0.5


def kinds_asked(task: Sequence[str], columns: Sequence[str]) -> list[Kind | None]:
    """The kind of question of each column by --task: KIND for all, or NAME=KIND for one; None for
    "auto". Raises InputError for other values."""
    asked: dict[str, Kind | None] = dict.fromkeys(columns)
    kinds: dict[str, Kind | None] = {kind: kind for kind in PROBLEM_TYPES}
    for text in sorted(task, key=lambda text: "=" in text):  # values for all come first
        name, _, kind = text.rpartition("=")
        if kind not in {*kinds, "auto"} or (name and name not in asked):
            names = [name for name in columns if name]
            others = (
                f", or NAME= and one of these, with NAME from {listed(names)}"
                if names
                else "; set problem_type in config.json of classifiers of different kinds"
            )
            raise InputError(f"--task is '{text}', expected auto, {', '.join(kinds)}{others}")
        asked |= dict.fromkeys([name] if name else columns, kinds.get(kind))
    return [asked[name] for name in columns]


def all_names(found: Sequence[Found]) -> list[str]:
    """The class names of all questions, concatenated."""
    return [name for each in found for name in each.names]


def questions_from(
    examples: Examples, found: Sequence[Found], cutoffs: Sequence[str]
) -> list[Question]:
    """Questions for label columns. Raises InputError for constant scores, and as
    `_with_cutoffs`."""
    plain = [_named(Question(each.kind), each, found) for each in found]
    asked = Questions(plain, all_names(found))
    targets = np.asarray(examples.labels)
    questions = []
    for each, question, of in zip(found, plain, asked, strict=True):
        if each.kind == "score":
            log.info(
                "column '%s' has numbers, so a score is learnt; with --task single-label, each is "
                "the name of a class",
                each.column,
            )
            question = in_units(question, asked.targets(of, targets))
        questions.append(question)
    return _with_cutoffs(questions, [each.names for each in found], cutoffs)


def _named(question: Question, found: Found, among: Sequence[Found]) -> Question:
    """The question with its column's name, if there are several."""
    if len(among) == 1:
        return question
    return msgspec.structs.replace(question, name=found.column, classes=len(found.names))


def questions_for(
    classifiers: Sequence[PreTrainedConfig], kind: Kind | None, cutoffs: Sequence[str]
) -> list[Question]:
    """Questions for existing classifiers, of a kind or by their configurations. Raises InputError
    as `asked_of` and `_with_cutoffs`."""
    questions = [asked_of(each, kind) for each in classifiers]
    names = [
        label_names(config, question.kind)
        for config, question in zip(classifiers, questions, strict=True)
    ]
    return _with_cutoffs(questions, names, cutoffs)


def in_units(question: Question, scores: NDArray[Any]) -> Question:
    """The question with centre and scale of these scores; raises InputError if all are equal."""
    centre, scale = float(scores.mean()), float(scores.std())
    if not scale > 0:
        raise InputError(
            f"all {len(scores):,} scores are {centre:g}, expected different ones; is the column, "
            "or the classifier, the right one?"
        )
    return msgspec.structs.replace(question, centre=centre, scale=scale)


def scaled(
    model: FastBertForSequenceClassification, answers: NDArray[np.float32]
) -> list[Question]:
    """The model's questions, with centre and scale of the scores in its answers, (n, classes)."""
    return [
        in_units(asked.task.question, answers[:, asked.target.start])
        if asked.task.question.kind == "score"
        else asked.task.question
        for asked in model.questions
    ]


def _with_cutoffs(
    questions: list[Question], names: Sequence[Sequence[str]], given: Sequence[str]
) -> list[Question]:
    """The questions with cut-offs of --cutoff: a number for all labels, or NAME=0.3 for one. Raises
    InputError if no question has several labels, for unknown labels, and for numbers that are not
    between 0 and 1."""
    several = [k for k, each in enumerate(questions) if each.kind == "several-labels"]
    if given and not several:
        raise InputError(
            f"--cutoff is '{given[0]}', which goes with several labels, not with "
            f"{questions[0].kind.replace('-', ' ')}"
        )
    known = {name: 0.5 for k in several for name in names[k]}
    for text in sorted(given, key=lambda text: "=" in text):  # values for all come first
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 < value < 1 or (name and name not in known):
            raise InputError(
                f"--cutoff is '{text}', expected a number between 0 and 1, or NAME= and such a "
                f"number, with NAME from {listed(list(known))}"
            )
        known |= {name: value} if name else dict.fromkeys(known, value)
    if not given:
        return questions
    return [
        msgspec.structs.replace(each, cutoffs=[known[name] for name in names[k]])
        if k in several
        else each
        for k, each in enumerate(questions)
    ]


def first_answers(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Examples,
) -> NDArray[np.float32]:
    """Logits of full depth for the first texts, as from Hugging Face's classifiers: (n,
    classes)."""
    some = corpus.take(range(min(len(corpus), _FIRST)))
    tokens = Tokenizer(tokenizer, model.config.windowing)(
        some.texts, some.pairs, model.config.max_length
    )
    logits = torch.from_numpy(Engine(model, device()).full_depth(tokens))
    shown: NDArray[np.float32] = model.questions.shown(logits).numpy()
    return shown


def doubt_one_label(logits: NDArray[np.float32]) -> None:
    """Warn if a classifier without a problem_type seems to give several labels."""
    above = (logits > 0).sum(1)
    odd = float((above != 1).mean())
    sure = float((np.abs(logits) > 2).mean())
    if logits.shape[1] > 2 and odd > _ODD and sure > _ODD:
        log.warning(
            f"for {odd:.0%} of the first texts the classifier gives no label, or several, a "
            "probability above one half, and its configuration has no problem_type: it counts as "
            "one of a single label, as in Hugging Face's pipeline; pass --task several-labels if "
            "it is not"
        )
    else:
        log.info(
            "the classifier's configuration has no problem_type: it counts as one of a single "
            "label, as in Hugging Face's pipeline"
        )
