from pipelines.reports.analytics import open as open

from .configuration import FastBertConfig as FastBertConfig
from .errors import FastBertError as FastBertError
from .errors import InputError as InputError
from .inference.decisions import Predictions as Predictions
from .inference.engine import Engine as Engine
from .inference.tokens import Tokens as Tokens
from .inference.tokens import tokenize as tokenize
from .library import Classifier as Classifier
from .library import Label as Label
from .library import load as load
from .model import FastBertForSequenceClassification as FastBertForSequenceClassification

MODULES: dict[str, str]
__version__: str
