from .configuration import FastBertConfig as FastBertConfig
from .errors import FastBertError as FastBertError
from .errors import InputError as InputError
from .inference.engine import Engine as Engine
from .inference.engine import Predictions as Predictions
from .inference.tokens import Tokens as Tokens
from .inference.tokens import tokenize as tokenize
from .model import FastBertForSequenceClassification as FastBertForSequenceClassification

__version__: str
