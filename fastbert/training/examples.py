"""Texts to learn from, and their tokens."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Texts to learn from, in columns of equal length."""

    texts: list[str]
    pairs: list[str] | None = None
    labels: list[Any] | None = None  # targets, as `Questions` has them

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> "Examples":
        """Those of some rows, by number."""

        def some(column: list[Any] | None) -> list[Any] | None:
            return None if column is None else [column[row] for row in rows]

        texts = [self.texts[row] for row in rows]
        return replace(self, texts=texts, pairs=some(self.pairs), labels=some(self.labels))

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> "TokenDataset":
        """A data set for the Trainer."""
        tokens = Tokenizer(tokenizer)(self.texts, self.pairs, max_length)
        special = tokenizer.num_special_tokens_to_add(pair=self.pairs is not None)
        own = max(1, len(tokens.ids) - special * len(tokens))
        unknown = int((tokens.ids == tokenizer.unk_token_id).sum()) if len(tokens) else 0
        if unknown > own / 2:
            log.warning(
                "the tokenizer does not know %.0f %% of the tokens of the texts: is it, and is the "
                "model, for texts of this language and kind?",
                100 * unknown / own,
            )
        return TokenDataset(tokens, self.labels)


class TokenDataset(Dataset[dict[str, Any]]):
    """Tokenized rows, and their labels where there are any."""

    def __init__(self, tokens: Tokens, labels: list[Any] | None) -> None:
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
