"""Texts to learn from, and their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens


@dataclass(frozen=True)
class Examples:
    """Texts to learn from, in columns of equal length."""

    texts: list[str]
    pairs: list[str] | None = None
    labels: list[int] | None = None  # class indices, or NO_LABEL

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> "Examples":
        """Those of some rows, by number."""

        def some(column: list[Any] | None) -> list[Any] | None:
            return None if column is None else [column[row] for row in rows]

        return Examples([self.texts[row] for row in rows], some(self.pairs), some(self.labels))

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> "TokenDataset":
        """A data set for the Trainer."""
        return TokenDataset(Tokenizer(tokenizer)(self.texts, self.pairs, max_length), self.labels)


class TokenDataset(Dataset[dict[str, Any]]):
    """Tokenized rows, and their labels where there are any."""

    def __init__(self, tokens: Tokens, labels: list[int] | None) -> None:
        self.tokens, self.labels = tokens, labels

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Any]:
        span = slice(self.tokens.offsets[row], self.tokens.offsets[row + 1])
        item: dict[str, Any] = {"input_ids": self.tokens.ids[span].tolist()}
        if self.tokens.types is not None:
            item["token_type_ids"] = self.tokens.types[span].tolist()
        if self.labels is not None:
            item["labels"] = self.labels[row]
        return item
