"""FastBERT: a BERT-like classifier whose rows leave at the first layer that is sure enough.

Its names are imported when they are first used: reports and commits do without torch.
"""

import lazy_loader

__version__ = "0.2.0.dev0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
