"""Self-attention over rows that lie packed: nothing is padded, so no token is masked for that."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from fastbert.packed import ragged
from fastbert.packed.batching import Batch

#: Queries, keys and values, each (n, heads, T, H / heads), to contexts of the same shape.
Core = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def attend(
    mixed: torch.Tensor, batch: Batch, heads: int, window: int | None = None
) -> torch.Tensor:
    """Queries, keys and values side by side (P, 3H) to contexts (P, H). Tokens look at all of their
    row, or at those that are no further than `window` away."""
    query, key, value = mixed.view(len(mixed), 3, heads, -1).unbind(1)
    if batch.ragged and ragged.fits(query):
        rows = batch.bounds, batch.longest
        return ragged.attend(query, key, value, rows, rows, window).flatten(1)
    return attend_by_length(mixed, batch, heads, partial(_core, window=window))


def attend_by_length(mixed: torch.Tensor, batch: Batch, heads: int, core: Core) -> torch.Tensor:
    """The same where `core` says who looks at whom among n rows of T tokens: rows of one length go
    together; rows are sorted by length, so there are few groups."""
    contexts = mixed.new_zeros(len(mixed), mixed.shape[1] // 3)
    for group in batch.groups:
        split = mixed[group.tokens].view(group.rows, group.length, 3, heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        context = core(query, key, value)
        place = contexts[group.tokens].view(group.rows, group.length, heads, -1)
        place.copy_(context.transpose(1, 2))
    return contexts


def _core(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    length, near = query.shape[2], None
    if window is not None and length > window + 1:
        near = torch.ones(length, length, dtype=torch.bool, device=query.device)
        near = near.tril_(window).triu_(-window)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=near)
