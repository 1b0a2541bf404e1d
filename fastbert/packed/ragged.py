"""Attention over rows of any lengths in one call, by the kernel that torch has for GPUs.

Letters: n rows, of which Q tokens look and K are looked at; D size of a head.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

#: As torch's `varlen_attn`.
Kernel = Callable[..., torch.Tensor]

#: Largest size of a head that it takes, and what sizes are multiples of.
_LARGEST, _MULTIPLE = 256, 8


@cache
def kernel(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """The one that works there with such numbers, tried once; None if there is none."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn as attention
    except ImportError:  # of torch before 2.10
        return None
    some = torch.ones(3, 1, 64, dtype=dtype, device=device)
    bounds = torch.tensor([0, 1, 3], dtype=torch.int32, device=device)
    # In one split a row's sums do not depend on its neighbours; not every torch and backend has it.
    tries: list[dict[str, Any]] = [{"num_splits": 1}, {}]
    for options in tries:
        run: Any = partial(attention, **options)
        try:
            if torch.allclose(run(some, some, some, bounds, bounds, 2, 2), some):
                found: Kernel = run
                return found
        except (RuntimeError, TypeError):
            continue
    return None


def fits(query: torch.Tensor) -> bool:
    """Whether it takes heads of this size, (Q, heads, D)."""
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
    divided by the square root of D. `looking` and `seen` are where rows begin among the queries and
    among the keys, int32 (n + 1,), and the most tokens that one has of them."""
    run = kernel(query.device, query.dtype)
    assert run is not None
    near = (-1, -1) if window is None else (window, window)
    (queries, longest), (keys, most) = looking, seen
    return run(query, key, value, queries, keys, longest, most, window_size=near)
