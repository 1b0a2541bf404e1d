"""FastBERT: a BERT-like classifier whose rows leave at the first layer that is sure enough.

Its names are imported when they are first used: reports and commits do without torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"

#: By name, the module that has it; `__init__.pyi` says the same to type checkers. `open` is of a
#: package that is built on this one, which is not imported before somebody asks for it.
MODULES = {
    "Classifier": "fastbert.library",
    "Engine": "fastbert.inference.engine",
    "FastBertConfig": "fastbert.configuration",
    "FastBertError": "fastbert.errors",
    "FastBertForSequenceClassification": "fastbert.model",
    "InputError": "fastbert.errors",
    "Label": "fastbert.library",
    "Predictions": "fastbert.inference.decisions",
    "Tokens": "fastbert.inference.tokens",
    "load": "fastbert.library",
    "open": "pipelines.reports.analytics",
    "tokenize": "fastbert.inference.tokens",
}
__all__ = [*MODULES]


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module 'fastbert' has no attribute '{name}'")
    globals()[name] = found = getattr(import_module(MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
