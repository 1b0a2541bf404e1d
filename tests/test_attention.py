"""Attention on CPUs, in chunks, against its formula."""

import math

import numpy as np
import pytest
import torch

from fastbert.packed import attention as packed
from fastbert.packed.batching import Batch, Group

HEADS, SIZE = 3, 8
#: How far from float64's: bf16 has eight bits.
NEAR = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float64: 1e-12}


def formula(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | float = 0
) -> torch.Tensor:
    scores = query.double() @ key.double().mT / math.sqrt(query.shape[-1]) + bias
    return scores.softmax(-1) @ value.double()


def rows_of(lengths: list[int], dtype: torch.dtype) -> tuple[torch.Tensor, Batch]:
    batch = Batch(np.array(lengths))
    torch.manual_seed(len(lengths))
    mixed = torch.randn(batch.tokens + batch.surplus, 3 * HEADS * SIZE)
    return mixed.to(dtype), batch


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("window", [None, 0, 2])
@pytest.mark.parametrize("scores", [1, 40, 1 << 18])
def test_contexts_are_the_formulas(monkeypatch, dtype, window, scores):
    """However the rows, and the scores of one row, are cut into chunks."""
    monkeypatch.setattr(packed, "_SCORES", scores)
    lengths = [19, 19, 7, 7, 7, 2, 1]
    mixed, batch = rows_of(lengths, dtype)
    found = packed.attend(mixed, batch, HEADS, window)
    begin = 0
    for length in lengths:
        row = mixed[begin : begin + length].view(length, 3, HEADS, SIZE)
        query, key, value = row.permute(1, 2, 0, 3)
        apart = (torch.arange(length)[:, None] - torch.arange(length)).abs()
        far = torch.zeros(length, length, dtype=torch.double)
        if window is not None:
            far.masked_fill_(apart > window, -math.inf)
        expected = formula(query, key, value, far).transpose(0, 1).flatten(1)
        own = found[begin : begin + length].double()
        torch.testing.assert_close(own, expected, atol=NEAR[dtype], rtol=NEAR[dtype])
        begin += length


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [5, 300])
def test_a_bias_of_each_head_is_added(monkeypatch, dtype, length):
    monkeypatch.setattr(packed, "_SCORES", 7000)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, HEADS, length, SIZE).to(dtype)
    bias = torch.randn(2, HEADS, length, length).to(dtype)
    found = packed.attention(query, key, value, bias, scale=1 / math.sqrt(SIZE))
    expected = formula(query, key, value, bias.double())
    torch.testing.assert_close(found.double(), expected, atol=NEAR[dtype], rtol=NEAR[dtype])


def test_groups_are_cut_into_all_their_rows():
    parts = [*Group(slice(10, 45), 7, 5).cut(3)]
    assert parts == [
        Group(slice(10, 25), 3, 5),
        Group(slice(25, 40), 3, 5),
        Group(slice(40, 45), 1, 5),
    ]
    for rows in range(1, 300):  # of few sizes
        sizes = {part.rows for part in Group(slice(0, 2 * rows), rows, 2).cut(40)}
        assert sizes <= {1, 2, 3, 4, 6, 8, 12, 16, 24, 32}
