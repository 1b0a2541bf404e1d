"""Ragged token ids equal the tokenizer's; rows are told apart, and taken, by them."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.models import random_tokens, tiny_tokenizer
from support.shards import random_texts

from fastbert.inference.tokens import Tokens, sample, tokenize


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


def test_types_tell_rows_apart():
    tokens = random_tokens([6, 6], seed=1, pairs=True)
    same_ids = Tokens(np.tile(tokens.ids[:6], 2), tokens.offsets, tokens.types)
    assert len(same_ids.distinct()[0]) == 2


@given(rows=st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=30), pairs=st.booleans())
def test_rows_are_told_apart_by_their_tokens(rows, pairs):
    """Some of them empty, which the engine never gets."""
    tokens = Tokens.of(rows)
    if pairs:
        tokens = replace(tokens, types=(tokens.ids % 2).astype(np.int8))
    chosen, place = tokens.distinct()
    kinds = [*dict.fromkeys(map(tuple, rows))]
    assert [tuple(rows[row]) for row in chosen] == kinds
    assert [kinds[k] for k in place] == [*map(tuple, rows)]


def test_all_rows_as_they_are_are_not_copied():
    tokens = random_tokens([6, 2, 9], seed=1)
    assert tokens.take(np.arange(3)) is tokens
    for rows in ([0, 2, 1], [0, 1], [0, 1, 2, 0], []):
        found = tokens.take(np.array(rows, np.int64))
        assert found is not tokens
        expected = [tokens.ids[tokens.offsets[k] : tokens.offsets[k + 1]] for k in rows]
        assert found.ids.tolist() == [id for row in expected for id in row]
        assert found.lengths.tolist() == [len(row) for row in expected]
