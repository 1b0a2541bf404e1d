"""Self-attention over rows that lie packed: nothing is padded, so nothing is masked."""

import torch
from torch.nn import functional

from fastbert.packed.batching import Group


def attend(mixed: torch.Tensor, groups: list[Group], heads: int) -> torch.Tensor:
    """Queries, keys and values side by side (M, 3H), of M tokens, to contexts (M, H).

    Rows of one length go together; rows are sorted by length, so there are few groups.
    """
    contexts = mixed.new_zeros(len(mixed), mixed.shape[1] // 3)
    for group in groups:
        split = mixed[group.tokens].view(group.rows, group.length, 3, heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (n, heads, T, H / heads)
        context = functional.scaled_dot_product_attention(query, key, value)
        place = contexts[group.tokens].view(group.rows, group.length, heads, -1)
        place.copy_(context.transpose(1, 2))
    return contexts
