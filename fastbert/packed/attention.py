"""Self-attention over rows that lie packed: nothing is padded, so no token is masked for that."""

from collections.abc import Callable

import torch
from torch.nn import functional

from fastbert.packed.batching import Group

#: Queries, keys and values, each (n, heads, T, H / heads), to contexts of the same shape.
Core = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def attend(
    mixed: torch.Tensor,
    groups: list[Group],
    heads: int,
    core: Core = functional.scaled_dot_product_attention,
) -> torch.Tensor:
    """Queries, keys and values side by side (M, 3H), of M tokens, to contexts (M, H).

    Rows of one length go together; rows are sorted by length, so there are few groups. `core` says
    who looks at whom in one group, n rows of T tokens; by default, everybody at everybody.
    """
    contexts = mixed.new_zeros(len(mixed), mixed.shape[1] // 3)
    for group in groups:
        split = mixed[group.tokens].view(group.rows, group.length, 3, heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        context = core(query, key, value)
        place = contexts[group.tokens].view(group.rows, group.length, heads, -1)
        place.copy_(context.transpose(1, 2))
    return contexts
