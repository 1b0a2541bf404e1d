"""Token ids of many texts without padding, passed from the tokenizer stage to the engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import BatchEncoding, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokens:
    """n ragged rows of token ids, each of one window or several."""

    ids: NDArray[np.int32]  # (sum of lengths,)
    offsets: NDArray[np.int64]  # (n + 1,): row i is [offsets[i], offsets[i+1])
    types: NDArray[np.int8] | None = None  # like ids: 1 in a second text
    #: Whether the text was longer than these tokens, (n,); None if no text was tokenized.
    truncated: NDArray[np.bool_] | None = None
    #: Lengths of the W windows of all rows, (W,), and their number in each row, (n,); None: one
    #: each.
    windows: NDArray[np.int64] | None = None
    counts: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Tokens":
        """From the ids of each row."""
        ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        ids = [np.empty(0, np.int32), *(np.asarray(row, np.int32) for row in rows)]
        return cls(np.concatenate(ids), np.append(0, ends))

    @classmethod
    def of_windows(
        cls,
        ids: NDArray[np.int32],
        edges: NDArray[np.int64],
        counts: NDArray[np.int64],
        truncated: NDArray[np.bool_] | None,
    ) -> "Tokens":
        """Rows with these numbers of windows, (n,), which lie between `edges`, (W + 1,)."""
        offsets = edges[np.concatenate([[0], np.cumsum(counts)])]
        return cls(ids, offsets, None, truncated, np.diff(edges), counts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def costly(self) -> NDArray[np.int64]:
        """Lengths for `CostModel`: (n,), or with several windows (n, most of a row), with 0 for no
        window."""
        if self.windows is None or self.counts is None:
            return self.lengths
        found = np.zeros((len(self), max(1, int(self.counts.max(initial=0)))), np.int64)
        found[np.arange(found.shape[1]) < self.counts[:, None]] = self.windows
        return found

    def apart(self) -> tuple["Tokens", NDArray[np.int64]]:
        """The windows as separate rows, and the original row of each, (W,)."""
        if self.windows is None or self.counts is None:
            return self, np.arange(len(self))
        edges = np.concatenate([[0], np.cumsum(self.windows)]).astype(np.int64)
        return Tokens(self.ids, edges), np.repeat(np.arange(len(self)), self.counts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row, int64 (n,)."""
        return np.diff(self.offsets)

    @property
    def cut(self) -> int:
        """Number of rows whose text was longer."""
        return 0 if self.truncated is None else int(self.truncated.sum())

    def take(self, rows: NDArray[Any]) -> "Tokens":
        """These rows, in this order: indices (m,). All rows in order are not copied."""
        if np.array_equal(rows, np.arange(len(self))):
            return self
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64)
        ids = self._gathered(self.ids, rows)
        types = None if self.types is None else self._gathered(self.types, rows)
        truncated = None if self.truncated is None else self.truncated[rows]
        if self.windows is None or self.counts is None:
            return Tokens(ids, offsets, types, truncated)
        counts = self.counts[rows]
        begin = np.cumsum(self.counts)[rows] - counts
        ends = np.cumsum(counts)
        which = np.arange(int(counts.sum())) + np.repeat(begin - (ends - counts), counts)
        return Tokens(ids, offsets, types, truncated, self.windows[which], counts)

    def distinct(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first row of each kind (m,), and for every row which of those it equals (n,)."""
        values: NDArray[Any] = self.ids
        if self.types is not None:
            values = values + (self.types.astype(np.int64) << 32)
        place = self._as_bytes(values).dictionary_encode().indices.to_numpy().astype(np.int64)
        return np.unique(place, return_index=True)[1], place

    def _as_bytes(self, values: NDArray[Any]) -> pa.LargeBinaryArray:
        """The values of each row, given one per token; by Arrow, which copies bytes several times
        as fast as numpy by indices."""
        edges = pa.py_buffer(self.offsets * values.itemsize)
        buffers = [None, edges, pa.py_buffer(np.ascontiguousarray(values))]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self), buffers)

    def _gathered(self, values: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
        """The values of these rows, concatenated."""
        taken = self._as_bytes(values).take(pa.array(rows)).buffers()[2]
        return np.frombuffer(taken or b"", values.dtype)[: self.lengths[rows].sum()]


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
) -> Tokens:
    """Texts, or pairs of texts, to token ids with special tokens.

    At most `max_length` tokens a row; the longer text of a pair is truncated first, as in Hugging
    Face.
    """
    if not texts:
        empty = np.empty(0, np.int32)
        types = None if pairs is None else empty.astype(np.int8)
        return Tokens(empty, np.zeros(1, np.int64), types, np.zeros(0, bool))
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
    return Tokens(ids, offsets, types, _truncated(tokenizer, texts, pairs, encoded, max_length))


def _truncated(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    encoded: BatchEncoding,
    max_length: int,
) -> NDArray[np.bool_]:
    """Which of the texts had more tokens than are `encoded`, bool (n,)."""
    cut = np.array([len(ids) >= max_length for ids in encoded["input_ids"]])
    full = np.flatnonzero(cut).tolist()
    if encoded.encodings:
        cut[full] = [bool(encoded.encodings[row].overflowing) for row in full]
    elif full:  # tokenizers in Python do not report it
        second = None if pairs is None else [pairs[row] for row in full]
        whole = tokenizer([texts[row] for row in full], second)
        cut[full] = [len(ids) > max_length for ids in whole["input_ids"]]
    return cut


def sample(tokens: Tokens, rows: int) -> Tokens:
    """At most `rows` rows, spread evenly over all."""
    chosen = np.linspace(0, len(tokens) - 1, min(rows, len(tokens))).astype(np.int64)
    return tokens.take(np.unique(chosen))
