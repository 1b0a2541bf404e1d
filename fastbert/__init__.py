"""FastBERT: a BERT-like classifier whose rows leave at the first layer that is sure enough."""

from fastbert.configuration import FastBertConfig
from fastbert.engine import Engine, Predictions
from fastbert.errors import FastBertError, InputError
from fastbert.model import FastBertForSequenceClassification
from fastbert.tokens import Tokens, tokenize

__all__ = [
    "Engine",
    "FastBertConfig",
    "FastBertError",
    "FastBertForSequenceClassification",
    "InputError",
    "Predictions",
    "Tokens",
    "tokenize",
]

__version__ = "0.1.0"
