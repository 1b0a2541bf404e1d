"""Choice of the longest input, by the lengths of texts."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from fastbert.inference.tokenizer import Tokenizer
from fastbert.training.examples import Examples

#: Lengths in tokens, special tokens included: the first that holds this share of the texts whole is
#: chosen.
LENGTHS, WHOLE = (64, 128, 256, 512, 1024, 2048, 4096, 8192), 0.95
#: Rows to measure, spread evenly over all.
_ROWS = 5_000


def fitting_length(
    tokenizer: PreTrainedTokenizerBase, examples: Examples, longest: int, shortest: int = 0
) -> tuple[int, float]:
    """A maximal length for these texts, `shortest` to `longest`, and the share that it holds
    whole."""
    rows = np.unique(np.linspace(0, len(examples) - 1, min(_ROWS, len(examples))).astype(int))
    some = examples.take(rows.tolist())
    tokens = Tokenizer(tokenizer)(some.texts, some.pairs, longest)
    assert tokens.truncated is not None
    lengths = np.where(tokens.truncated, np.inf, tokens.lengths)
    for length in (each for each in LENGTHS if shortest <= each < longest):
        if (share := float((lengths <= length).mean())) >= WHOLE:
            return length, share
    return longest, float((lengths <= longest).mean())
