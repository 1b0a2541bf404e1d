"""Attention over rows of any lengths in one call, by torch's kernel for GPUs.

Letters: n rows with Q tokens as queries and K as keys; D size of a head.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any

import torch

from fastbert.packed.trial import agreed, for_gpus, tried

#: Type of torch's `varlen_attn`.
Kernel = Callable[..., torch.Tensor]

#: Largest supported size of a head, and the divisor of sizes.
_LARGEST, _MULTIPLE = 256, 8


@cache
def kernel(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """The one that works there with such numbers, tried once; None if there is none."""
    if not for_gpus(device, dtype):
        return None
    what = "torch's attention over rows of any lengths"
    with tried(what):
        from torch.nn.attention.varlen import varlen_attn

        attention: Any = varlen_attn
        run: Kernel = partial(attention, num_splits=1)
        # With one split, a row's sums do not depend on other rows; torch 2.11, and some backends,
        # do not support the option.
        with suppress(RuntimeError, TypeError):
            if agreed(what, _attends(run, device, dtype)):
                return run
        if agreed(what, _attends(attention, device, dtype)):
            found: Kernel = attention
            return found
    return None


def _attends(run: Kernel, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether its results are right, also with a window, and with keys shared by all heads."""
    query, key = torch.randn(2, 5, 2, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    query, key = query.to(device), key[:, :1].to(device).expand(-1, 2, -1)
    bounds = torch.tensor([0, 1, 5], dtype=torch.int32, device=device)
    same = True
    for window in (-1, 1):
        found = run(query, key, key, bounds, bounds, 4, 4, window_size=(window, window))
        for row in (slice(0, 1), slice(1, 5)):
            scores = torch.einsum("qhd,khd->hqk", query[row].float(), key[row].float()) / 8
            apart = torch.arange(row.stop - row.start, device=device)
            far = (apart[:, None] - apart).abs() > (window if window > 0 else 4)
            weights = scores.masked_fill(far, -math.inf).softmax(-1)
            expected = torch.einsum("hqk,khd->qhd", weights, key[row].float())
            same &= bool(torch.allclose(found[row].float(), expected, atol=0.05))
    return same


def fits(query: torch.Tensor) -> bool:
    """Whether it supports heads of this size, (Q, heads, D)."""
    size = query.shape[-1]
    return size <= _LARGEST and size % _MULTIPLE == 0


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    looking: tuple[torch.Tensor, int],
    seen: tuple[torch.Tensor, int],
    window: int | None = None,
) -> torch.Tensor:
    """Queries (Q, heads, D), keys and values (K, heads, D) to contexts (Q, heads, D); scores are
    divided by the square root of D. `looking` and `seen` are the starts of rows among queries and
    among keys, int32 (n + 1,), each with the length of the longest row."""
    run = kernel(query.device, query.dtype)
    assert run is not None
    near = (-1, -1) if window is None else (window, window)
    (queries, longest), (keys, most) = looking, seen
    return run(query, key, value, queries, keys, longest, most, window_size=near)
