from .configuration import FastBertConfig as FastBertConfig
from .engine import Engine as Engine
from .engine import Predictions as Predictions
from .errors import FastBertError as FastBertError
from .errors import InputError as InputError
from .model import FastBertForSequenceClassification as FastBertForSequenceClassification
from .tokens import Tokens as Tokens
from .tokens import tokenize as tokenize

__version__: str
