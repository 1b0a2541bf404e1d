"""Division of texts into windows, and pooling of the windows' logits.

Letters: n texts, W windows of all of them, N outputs of a head.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from fastbert.errors import InputError
from fastbert.exits.windows import Windows
from fastbert.inference.decisions import Decide, Later, Mask
from fastbert.inference.tokens import Tokens
from fastbert.packed.transfer import on_device
from fastbert.tasks.questions import Questions


def in_windows(
    bare: Tokens, tokenizer: PreTrainedTokenizerBase, max_length: int, windows: Windows
) -> Tokens:
    """Texts without special tokens, as windows of at most `max_length` tokens with them.

    The same as Hugging Face's tokenizers with `return_overflowing_tokens`: window k begins at token
    k times the number of new tokens per window. A text that fits is one window.
    """
    begin, end = special_tokens(tokenizer)
    room = max_length - len(begin) - len(end)
    if windows.stride >= room:
        raise InputError(
            f"windows of {max_length} tokens have room for {room} beside special tokens, and their "
            f"stride is {windows.stride}; expected less"
        )
    new = room - windows.stride
    counts = np.maximum(1, -(-(bare.lengths - windows.stride) // new))
    truncated = np.zeros(len(bare), bool)
    if windows.most is not None:
        truncated = counts > windows.most
        counts = np.minimum(counts, windows.most)
    texts = np.repeat(np.arange(len(bare)), counts)
    places = np.arange(len(texts)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = bare.offsets[texts] + places * new
    sizes = np.minimum(room, bare.offsets[texts + 1] - starts)
    # A window is three runs of one array: special tokens, those of the text, special tokens.
    ids = np.concatenate([begin, end, bare.ids])
    runs = np.empty((len(texts), 3), np.int64)
    runs[:, 0], runs[:, 1], runs[:, 2] = 0, starts + len(begin) + len(end), len(begin)
    lengths = np.empty_like(runs)
    lengths[:, 0], lengths[:, 1], lengths[:, 2] = len(begin), sizes, len(end)
    ends = np.cumsum(lengths).reshape(lengths.shape)
    total = int(ends[-1, -1]) if len(texts) else 0
    index = np.arange(total) + np.repeat((runs - (ends - lengths)).ravel(), lengths.ravel())
    edges = np.concatenate([[0], ends[:, -1]]) if len(texts) else np.zeros(1, np.int64)
    return Tokens.of_windows(ids[index], edges, counts, truncated)


def special_tokens(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Special tokens before and after a text; raises InputError for tokenizers that do not report
    them."""
    template = tokenizer("a")
    if not template.encodings:
        raise InputError(
            f"{type(tokenizer).__name__} does not report special tokens, which windows need; use a "
            "fast tokenizer, or leave out --windows"
        )
    sides = template.sequence_ids(0)  # of its tokens: 0 or, if special, None
    first, after = sides.index(0), len(sides) - sides[::-1].index(0)
    ids = np.asarray(template["input_ids"], np.int32)
    return ids[:first], ids[after:]


class Pooled:
    """A `Decide` on windows that asks another one on their texts: a text's windows go through the
    network together, and leave together."""

    def __init__(self, decide: Decide, texts: NDArray[np.int64], questions: Questions, how: str):
        """`texts`: number of each window's text (W,)."""
        self.decide, self.texts, self.questions, self.how = decide, texts, questions, how

    def __call__(self, exit: int, rows: NDArray[np.int64], logits: torch.Tensor) -> Later:
        texts, places, counts = np.unique(self.texts[rows], return_inverse=True, return_counts=True)
        order = on_device(np.argsort(places, kind="stable"), logits.device)
        bounds = on_device(np.append(0, np.cumsum(counts)), logits.device)
        pooled = self.questions.pooled(logits.float()[order], bounds, self.how)
        settled = self.decide(exit, texts, pooled)

        def spread() -> Mask:
            stays: Mask = settled()[places]
            return stays

        return spread
