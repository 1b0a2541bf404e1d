"""What a new checkpoint is asked, by the labels that it learns or the classifier it is made of."""

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
from fastbert.exits.question import Kind, Question
from fastbert.inference.engine import Engine
from fastbert.inference.precision import device
from fastbert.inference.tokenizer import Tokenizer
from fastbert.model import FastBertForSequenceClassification
from fastbert.training.examples import Examples
from pipelines.input.columns import listed

log = logging.getLogger(__name__)

#: Texts that a classifier answers before anything is learnt from it.
_FIRST = 512
#: Share of them with no label, or with several, above one half, from which on a classifier of one
#: label looks like one of several.
_ODD = 0.5


def question_from(examples: Examples, names: Sequence[str], cutoffs: Sequence[str]) -> Question:
    """For targets of a kind. InputError for a score that is the same everywhere, and as
    `_with_cutoffs`."""
    question = _with_cutoffs(Question(examples.kind), names, cutoffs)
    if examples.kind == "score":
        assert examples.labels is not None
        log.info(
            "the labels are numbers, so a score is learnt; --task single-label takes each for the "
            "name of a class"
        )
        question = in_units(question, np.asarray(examples.labels))
    return question


def question_for(
    classifier: PreTrainedConfig, kind: Kind | None, cutoffs: Sequence[str]
) -> Question:
    """For an existing classifier of a kind, or of what its configuration says. InputError as
    `asked_of` and `_with_cutoffs`."""
    question = asked_of(classifier, kind)
    return _with_cutoffs(question, label_names(classifier, question.kind), cutoffs)


def in_units(question: Question, scores: NDArray[Any]) -> Question:
    """With centre and scale of some scores; InputError if these do not differ."""
    centre, scale = float(scores.mean()), float(scores.std())
    if not scale > 0:
        raise InputError(
            f"all {len(scores):,} scores are {centre:g}, expected some that differ; is the column, "
            "or the classifier, the right one?"
        )
    return msgspec.structs.replace(question, centre=centre, scale=scale)


def _with_cutoffs(question: Question, names: Sequence[str], given: Sequence[str]) -> Question:
    """With cut-offs as --cutoff gives them: numbers for all classes, or NAME=0.3 for one. Raises
    InputError for those of other questions, of no class, and not between 0 and 1."""
    if not given:
        return question
    if question.kind != "several-labels":
        raise InputError(
            f"--cutoff is '{given[0]}', which goes with several labels, not with "
            f"{question.kind.replace('-', ' ')}"
        )
    cutoffs = dict.fromkeys(names, 0.5)
    for text in sorted(given, key=lambda text: "=" in text):  # those for all come first
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 < value < 1 or (name and name not in cutoffs):
            raise InputError(
                f"--cutoff is '{text}', expected a number between 0 and 1, or NAME= and such a "
                f"number, of {listed(list(names))}"
            )
        cutoffs |= {name: value} if name else dict.fromkeys(names, value)
    return msgspec.structs.replace(question, cutoffs=list(cutoffs.values()))


def first_answers(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Examples,
) -> NDArray[np.float32]:
    """What full depth gives for the first texts, as Hugging Face's classifiers do: (n, classes)."""
    some = corpus.take(range(min(len(corpus), _FIRST)))
    tokens = Tokenizer(tokenizer)(some.texts, some.pairs, model.config.max_length)
    logits = torch.from_numpy(Engine(model, device()).full_depth(tokens))
    shown: NDArray[np.float32] = model.task.shown(logits).numpy()
    return shown


def doubt_one_label(logits: NDArray[np.float32]) -> None:
    """Warn where a classifier that does not say what it is for seems to give several labels."""
    above = (logits > 0).sum(1)
    odd = float((above != 1).mean())
    sure = float((np.abs(logits) > 2).mean())
    if logits.shape[1] > 2 and odd > _ODD and sure > _ODD:
        log.warning(
            f"in {odd:.0%} of the first texts the classifier finds no label, or several, likely by "
            "itself, and its configuration has no problem_type: it is read as one of a single "
            "label, as Hugging Face's pipeline reads it; pass --task several-labels if it is not"
        )
    else:
        log.info(
            "the classifier's configuration has no problem_type: it is read as one of a single "
            "label, as Hugging Face's pipeline reads it"
        )
