"""Training texts, and their tokens."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from fastbert.exits.windows import Windows
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Training texts, in columns of equal length."""

    texts: list[str]
    pairs: list[str] | None = None
    labels: list[Any] | None = None  # targets, as in `Questions`

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> "Examples":
        """The examples of rows, by number."""

        def some(column: list[Any] | None) -> list[Any] | None:
            return None if column is None else [column[row] for row in rows]

        texts = [self.texts[row] for row in rows]
        return replace(self, texts=texts, pairs=some(self.pairs), labels=some(self.labels))

    def tokenize(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        windows: Windows | None = None,
        drawn: bool = False,
    ) -> "TokenDataset":
        """A data set for the Trainer: with `windows`, one item for each window, or, if `drawn`, one
        for each text, which is a random window each time."""
        tokens = Tokenizer(tokenizer, windows)(self.texts, self.pairs, max_length)
        special = tokenizer.num_special_tokens_to_add(pair=self.pairs is not None)
        own = max(1, len(tokens.ids) - special * len(tokens))
        unknown = int((tokens.ids == tokenizer.unk_token_id).sum()) if len(tokens) else 0
        if unknown > own / 2:
            log.warning(
                "%.0f %% of the tokens of the texts are unknown to the tokenizer: are tokenizer "
                "and model for texts of this language and kind?",
                100 * unknown / own,
            )
        return TokenDataset(tokens, self.labels, drawn)


class TokenDataset(Dataset[dict[str, Any]]):
    """Tokenized texts, and their labels, if any."""

    def __init__(self, tokens: Tokens, labels: list[Any] | None, drawn: bool = False) -> None:
        """Windows of a text are separate items, or, if `drawn`, the text is one item, a random
        window."""
        self.tokens, self.labels, self.drawn = tokens, labels, drawn
        self.windows, self.texts = tokens.apart()
        counts = np.bincount(self.texts, minlength=len(tokens))
        self.counts, self.first = counts, np.cumsum(counts) - counts

    def __len__(self) -> int:
        return len(self.tokens) if self.drawn else len(self.windows)

    def __getitem__(self, item: int) -> dict[str, Any]:
        row = item
        if self.drawn:
            count = int(self.counts[item])
            row = int(self.first[item]) + (int(torch.randint(count, ())) if count > 1 else 0)
        windows = self.windows
        span = slice(windows.offsets[row], windows.offsets[row + 1])
        found: dict[str, Any] = {"input_ids": windows.ids[span].tolist()}
        if windows.types is not None:
            found["token_type_ids"] = windows.types[span].tolist()
        if self.labels is not None:
            found["labels"] = self.labels[self.texts[row]]
        return found
