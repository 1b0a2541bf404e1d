"""Token ids of many texts without padding, as the tokenizer stage hands them to the engine."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokens:
    """n ragged rows of token ids."""

    ids: np.ndarray[Any, np.dtype[np.int32]]  # int32 (sum of lengths,)
    offsets: np.ndarray[
        Any, np.dtype[np.int64]
    ]  # int64 (n + 1,): row i is [offsets[i], offsets[i+1])
    types: np.ndarray[Any, np.dtype[np.int8]] | None = None  # int8 like ids: 1 in a second text

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens per row, int64 (n,)."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray[Any, Any]) -> "Tokens":
        """These rows, in this order: indices (m,)."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        moved = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        where = np.arange(offsets[-1]) + moved
        types = None if self.types is None else self.types[where]
        return Tokens(self.ids[where], offsets, types)

    def distinct(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The first row of each kind (m,), and for every row which of those it equals (n,)."""
        ids, types = memoryview(self.ids.tobytes()), None
        if self.types is not None:
            types = memoryview(self.types.tobytes())
        seen: dict[Any, int] = {}
        chosen: list[int] = []
        place = np.empty(len(self), np.int64)
        for row, (start, stop) in enumerate(itertools.pairwise(self.offsets.tolist())):
            key: Any = bytes(ids[4 * start : 4 * stop])
            if types is not None:
                key = (key, bytes(types[start:stop]))
            place[row] = seen.setdefault(key, len(chosen))
            if place[row] == len(chosen):
                chosen.append(row)
        return np.array(chosen, np.int64), place


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
) -> Tokens:
    """Texts, or pairs of texts, to token ids with special tokens.

    At most `max_length` tokens a row; of a pair the longer text is cut first, as Hugging Face does.
    """
    if not texts:
        empty = np.empty(0, np.int32)
        types = None if pairs is None else empty.astype(np.int8)
        return Tokens(empty, np.zeros(1, np.int64), types)
    encoded = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=pairs is not None,
    )
    lengths = [len(ids) for ids in encoded["input_ids"]]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.concatenate([np.asarray(row, np.int32) for row in encoded["input_ids"]])
    types = None
    if pairs is not None:
        types = np.concatenate([np.asarray(row, np.int8) for row in encoded["token_type_ids"]])
    return Tokens(ids, offsets, types)


def sample(tokens: Tokens, rows: int) -> Tokens:
    """At most `rows` rows, spread evenly over all."""
    chosen = np.linspace(0, len(tokens) - 1, min(rows, len(tokens))).astype(np.int64)
    return tokens.take(np.unique(chosen))
