"""Self-attention over packed rows, without padding and its mask.

On CPUs products and softmax run over chunks of rows whose scores stay in the cache: up to three
times as fast as torch's attention, which there takes each head of each row separately (AMD EPYC
with AVX-512, 2 to 256 tokens; in bf16 at all lengths).

Letters: P tokens of a batch; n rows of T tokens each; H hidden size, D size of a head.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch.nn import functional

from fastbert.packed import ragged
from fastbert.packed.batching import Batch

#: Scores of a chunk, for each thread.
_SCORES = 1 << 18
#: Length of a row, in tokens, from which torch's attention is faster in float32 on CPUs.
_LONG = 256

#: Queries, keys and values, each (n, heads, T, H / heads), to contexts of the same shape.
Core = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def attend(
    mixed: torch.Tensor, batch: Batch, heads: int, window: int | None = None
) -> torch.Tensor:
    """Queries, keys and values side by side (P, 3H) to contexts (P, H). Tokens attend to all of
    their row, or to those at most `window` away."""
    query, key, value = mixed.view(len(mixed), 3, heads, -1).unbind(1)
    if batch.ragged and ragged.fits(query):
        rows = batch.bounds, batch.longest
        return ragged.attend(query, key, value, rows, rows, window).flatten(1)
    return attend_by_length(mixed, batch, heads, partial(_core, window=window))


def attend_by_length(mixed: torch.Tensor, batch: Batch, heads: int, core: Core) -> torch.Tensor:
    """The same with attention `core` over n rows of T tokens: rows of equal length go together;
    rows are sorted by length, so there are few groups."""
    contexts = mixed.new_empty(len(mixed), mixed.shape[1] // 3)
    contexts[batch.tokens :] = 0  # tokens of no row
    in_cache = mixed.device.type == "cpu"
    for group in batch.groups:
        scores = heads * group.length**2
        for part in group.cut(_at_once(scores)) if in_cache else [group]:
            split = mixed[part.tokens].view(part.rows, part.length, 3, heads, -1)
            split = split.permute(2, 0, 3, 1, 4)
            context = core(*(split.contiguous() if in_cache else split))
            place = contexts[part.tokens].view(part.rows, part.length, heads, -1)
            place.copy_(context.transpose(1, 2))
    return contexts


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """As `torch.nn.functional.scaled_dot_product_attention`. On CPUs scores have the dtype of
    queries, rounded in bf16, and softmax is in float32 at least."""
    rows, heads, length, size = query.shape
    long = query.dtype == torch.float32 and length >= _LONG
    if long or query.device.type != "cpu":
        return functional.scaled_dot_product_attention(query, key, value, bias, scale=scale)
    scale = 1 / math.sqrt(size) if scale is None else scale
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    if bias is not None:
        bias = bias.expand(rows, heads, -1, -1).flatten(0, 1)
    exact = torch.promote_types(query.dtype, torch.float32)
    few = _at_once(rows * heads * length)  # a single row's scores may be too many
    parts = []
    for first in range(0, length, few):
        some = slice(first, first + few)
        added, by = (query.new_empty(1), 0) if bias is None else (bias[:, some], 1)
        scores = torch.baddbmm(added, query[:, some], key.mT, beta=by, alpha=scale)
        parts.append(torch.bmm(scores.softmax(-1, exact).to(value.dtype), value))
    contexts = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    return contexts.view(rows, heads, length, size)


def _at_once(scores: int) -> int:
    """How many times this number of scores fits into a chunk, at least once."""
    return max(1, _SCORES * torch.get_num_threads() // scores)


def _core(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    length, near = query.shape[2], None
    if window is not None and length > window + 1:
        near = _near(length, window, query.dtype, query.device)
    return attention(query, key, value, near)


@lru_cache(maxsize=1)  # chunks of equal length are consecutive
def _near(length: int, window: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Mask of a window of attention: (T, T)."""
    far = torch.full((length, length), -math.inf, dtype=dtype, device=device)
    return far.triu(window + 1) + far.tril(-window - 1)
