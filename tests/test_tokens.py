"""Ragged token ids equal the tokenizer's."""

import numpy as np
from support.models import random_tokens, tiny_tokenizer
from support.shards import random_texts

from fastbert.inference.tokens import sample, tokenize


def test_rows_equal_the_tokenizers(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    texts = random_texts(13)
    tokens = tokenize(tokenizer, texts, None, max_length=9)
    assert tokens.lengths.max() == 9
    for i, text in enumerate(texts):
        expected = tokenizer(text, truncation=True, max_length=9)["input_ids"]
        assert tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() == expected
    assert tokens.types is None


def test_pairs_have_types(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    tokens = tokenize(tokenizer, ["the red"], ["blue stone"], max_length=9)
    expected = tokenizer("the red", "blue stone")
    assert tokens.ids.tolist() == expected["input_ids"]
    assert tokens.types is not None
    assert tokens.types.tolist() == expected["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_no_texts(tmp_path):
    tokens = tokenize(tiny_tokenizer(tmp_path), [], None, max_length=9)
    assert len(tokens) == 0
    assert tokens.offsets.tolist() == [0]
    assert tokens.ids.dtype == np.int32


def test_a_sample_is_some_rows_unchanged():
    tokens = random_tokens([3, 5, 2, 7, 4], pairs=True)
    chosen = sample(tokens, 3)
    assert chosen.lengths.tolist() == [3, 2, 4]
    assert chosen.ids.tolist() == [*tokens.ids[:3], *tokens.ids[8:10], *tokens.ids[17:]]
    assert len(chosen.types) == 9
    assert np.array_equal(sample(tokens, 99).ids, tokens.ids)
