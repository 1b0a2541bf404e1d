"""Questions and heads of an existing classifier."""

from typing import NamedTuple

from transformers import PreTrainedConfig, PreTrainedModel

from fastbert.encoders import encoder_for
from fastbert.encoders.mixin import Mixin
from fastbert.errors import explained
from fastbert.exits.heads import ClassifierHead


class Own(NamedTuple):
    """One question that a classifier answers."""

    name: str  # "" if it has none
    config: PreTrainedConfig  # with the names of classes, and perhaps the problem type
    head: ClassifierHead


def own_heads(classifier: PreTrainedModel) -> list[Own]:
    """Its heads; raises InputError if they are not those of its family."""
    if isinstance(classifier, Mixin):
        return [Own(name, config, head) for name, config, head in classifier.heads]
    what = f"{type(classifier).__name__} has no classification head"
    with explained(what, "pass a model for sequence classification", AttributeError):
        head = encoder_for(classifier.config).head_of(classifier)
    return [Own("", classifier.config, head)]
