"""The classifiers that a checkpoint is made of: one, or several on the same backbone."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import msgspec
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastbert.encoders.adopt import Own, own_heads
from fastbert.errors import InputError
from fastbert.exits.question import Question, check_names
from fastbert.inference.tokenizer import PROBES
from fastbert.model import FastBertForSequenceClassification
from fastbert.weights import load_classifier
from pipelines.checkpoints.questions import kinds_asked, questions_for
from pipelines.checkpoints.settings import DistilSettings
from pipelines.input.columns import listed

log = logging.getLogger(__name__)

#: Tokens of the texts that tokenizers are compared on.
_LENGTH = 512


@dataclass(frozen=True)
class Teachers:
    """A backbone, and the heads of all classifiers on it."""

    backbone: Any
    heads: list[Own]  # one for each question
    questions: list[Question]

    def model(self, questions: Sequence[Question], **settings: Any) -> Any:
        """With new branches, for these questions."""
        return FastBertForSequenceClassification.from_heads(
            self.backbone, self.heads, questions, **settings
        )


def load_teachers(settings: DistilSettings) -> tuple[Teachers, PreTrainedTokenizerBase]:
    """Raises InputError as `load_classifier`, for classifiers whose backbones or tokenizers are not
    the same, and for questions without names of their own."""
    (kind,) = kinds_asked(settings.task, ("",))
    loaded = [load_classifier(each, bool(settings.pair_column), kind) for each in settings.teacher]
    (first, tokenizer), *others = loaded
    for place, (other, its_tokenizer) in zip(settings.teacher[1:], others, strict=True):
        _check_same(settings.teacher[0], first, place, other)
        if _said(tokenizer) != _said(its_tokenizer):
            raise InputError(
                f"the tokenizers of '{settings.teacher[0]}' and '{place}' are not the same, as one "
                "pass over a text takes; distil each into a checkpoint of its own"
            )
    heads, names = [], []
    for place, (classifier, _) in zip(settings.teacher, loaded, strict=True):
        for own in own_heads(classifier):
            heads.append(own)
            names.append(own.name or re.sub(r"\W", "_", PurePosixPath(place).name))
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


def _check_same(name: str, first: PreTrainedModel, other_name: str, other: PreTrainedModel) -> None:
    """Raises InputError unless all tensors of both backbones are the same."""
    advice = "one pass over a text takes the same in both; distil each into a checkpoint of its own"
    mine, theirs = (
        {key: value for key, value in each.base_model.state_dict().items() if "pooler." not in key}
        for each in (first, other)
    )
    if first.config.model_type != other.config.model_type or mine.keys() != theirs.keys():
        raise InputError(f"'{name}' and '{other_name}' are not of one family and size; {advice}")
    for key, value in mine.items():
        if value.shape != theirs[key].shape or not torch.equal(value, theirs[key]):
            raise InputError(
                f"the backbones of '{name}' and '{other_name}' differ, as in '{key}': they were "
                f"fine-tuned each for itself; {advice}"
            )


def _said(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What tells a tokenizer from others: its words, and what it makes of odd texts."""
    found = tokenizer(list(PROBES), truncation=True, max_length=_LENGTH)
    return tokenizer.get_vocab(), found["input_ids"]
