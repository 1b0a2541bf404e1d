"""The classifiers from which a checkpoint is made: one, or several on the same backbone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastbert.encoders.adopt import Own, own_heads
from fastbert.errors import InputError
from fastbert.exits.question import Question, check_names, question_name
from fastbert.inference.tokenizer import PROBES
from fastbert.model import FastBertForSequenceClassification
from fastbert.weights import load_classifier
from pipelines.checkpoints.questions import kinds_asked, questions_for
from pipelines.checkpoints.settings import DistilSettings
from pipelines.input.columns import listed

log = logging.getLogger(__name__)

#: A classifier and its tokenizer.
_Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
#: Most tokens of the texts on which tokenizers are compared.
_LENGTH = 512


@dataclass(frozen=True)
class Teachers:
    """A backbone, and the heads of all classifiers on it."""

    backbone: Any
    heads: list[Own]  # one for each question
    questions: list[Question]

    def model(self, questions: Sequence[Question], **settings: Any) -> Any:
        """The model with new branches, for these questions."""
        return FastBertForSequenceClassification.from_heads(
            self.backbone, self.heads, questions, **settings
        )


def load_teachers(settings: DistilSettings) -> tuple[Teachers, PreTrainedTokenizerBase]:
    """Raises InputError as `load_classifier`, for classifiers whose backbones or tokenizers differ,
    and for questions without distinct names."""
    (kind,) = kinds_asked(settings.task, ("",))
    loaded = [load_classifier(each, bool(settings.pair_column), kind) for each in settings.teacher]
    if difference := _difference(settings.teacher, loaded):
        raise InputError(
            f"{difference}; one pass over a text needs the same backbone and tokenizer in all: "
            "distil each into a separate checkpoint"
        )
    (first, tokenizer), heads, names = loaded[0], list[Own](), list[str]()
    for place, (classifier, _) in zip(settings.teacher, loaded, strict=True):
        for own in own_heads(classifier):
            heads.append(own)
            names.append(own.name or question_name(place))
    questions = questions_for([own.config for own in heads], kind, settings.cutoff)
    if settings.question and len(settings.question) != len(heads):
        raise InputError(
            f"--question names {len(settings.question)} questions, --teacher answers {len(heads)}; "
            "pass a name for each, in this order, or none"
        )
    names = list(settings.question) or names
    if len(heads) > 1:
        check_names(names)
        log.info("one pass answers %d questions: %s", len(heads), listed(names))
        questions = [
            msgspec.structs.replace(question, name=name)
            for question, name in zip(questions, names, strict=True)
        ]
    return Teachers(first.base_model, heads, questions), tokenizer


def one_pass(places: Sequence[str], pairs: bool) -> bool:
    """Whether these classifiers can answer in one pass over a text; if not, logs why.

    Raises InputError as `load_classifier`.
    """
    loaded = [load_classifier(each, pairs) for each in places]
    difference = _difference(places, loaded)
    for place, (classifier, _) in zip(places, loaded, strict=True):
        if len(own_heads(classifier)) > 1:
            difference = f"'{place}' alone answers several questions"
    if difference:
        log.info("each model reads the texts separately: %s", difference)
    return not difference


def _difference(places: Sequence[str], loaded: Sequence[_Loaded]) -> str | None:
    """Why classifiers cannot share one pass over a text: backbones or tokenizers differ; None if
    they can."""
    (first, tokenizer), *others = loaded
    mine = _tensors(first)
    for place, (other, its_tokenizer) in zip(places[1:], others, strict=True):
        both, theirs = f"'{places[0]}' and '{place}'", _tensors(other)
        if first.config.model_type != other.config.model_type or mine.keys() != theirs.keys():
            return f"{both} are not of one family and size"
        for key, value in mine.items():
            if value.shape != theirs[key].shape or not torch.equal(value, theirs[key]):
                return f"the backbones of {both} differ, for example in '{key}'"
        if _said(tokenizer) != _said(its_tokenizer):
            return f"the tokenizers of {both} differ"
    return None


def _tensors(classifier: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors of the backbone."""
    named: dict[str, torch.Tensor] = classifier.base_model.state_dict()
    return {key: value for key, value in named.items() if "pooler." not in key}


def _said(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The identity of a tokenizer: its words, and its tokens for unusual texts."""
    found = tokenizer(list(PROBES), truncation=True, max_length=_LENGTH)
    return tokenizer.get_vocab(), found["input_ids"]
