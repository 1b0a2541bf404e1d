"""DeBERTa's attention over rows of any lengths in one call, by flashdeberta, if installed.

Letters: n rows, P tokens, including those of no row; D size of a head, S buckets of distances in
each direction.
"""

from collections.abc import Callable
from functools import cache

import torch

from fastbert.packed.batching import Batch
from fastbert.packed.trial import agreed, for_gpus, tried

#: Type of flashdeberta's function over packed rows.
Kernel = Callable[..., torch.Tensor]

#: Sizes of a head that its tiles support.
_SIZES = (16, 32, 64, 128)


@cache
def kernel(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """The attention that works on this device with this dtype, tried once; None if there is
    none."""
    if not for_gpus(device, dtype):
        return None
    some = torch.ones(3, 1, 64, dtype=dtype, device=device)
    table = torch.ones(1, 1, 4, 64, dtype=dtype, device=device)
    bounds = torch.tensor([0, 1, 3], dtype=torch.int32, device=device)
    what = "flashdeberta's attention"
    with tried(what):
        from flashdeberta.ops.flash_attention_varlen import (
            flash_attention_with_disentangled_varlen as attention,
        )

        run: Kernel = attention
        found = run(some, some, some, table, table, bounds, bounds, 2, 2, False, 1.0, 2, 4)
        if agreed(what, torch.allclose(found, some)):
            return run
    return None


def fits(size: int) -> bool:
    """Whether it supports heads of this size."""
    return size in _SIZES


def attend(
    mixed: torch.Tensor,
    batch: Batch,
    heads: int,
    tables: tuple[torch.Tensor | None, torch.Tensor | None],
    scale: float,
    limit: int,
    buckets: int,
) -> torch.Tensor:
    """Queries, keys and values side by side (P, 3H) to contexts (P, H).

    `tables` are the keys and the queries of each distance, (1, heads, 2S, D) or None; sums of
    products are multiplied by `scale`. Distances below `limit` are put into `buckets` buckets in
    each direction, or, for 0, into one each.
    """
    run = kernel(mixed.device, mixed.dtype)
    assert run is not None
    query, key, value = mixed.view(len(mixed), 3, heads, -1).unbind(1)
    rows, longest = batch.bounds, batch.longest
    found = run(
        query, key, value, *tables, rows, rows, longest, longest, False, scale, buckets, limit
    )
    return found.flatten(1)
