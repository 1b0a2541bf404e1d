"""Free memory for a model's states, and detection of out-of-memory errors."""

from pathlib import Path

import psutil
import torch

#: Files of Linux with the limit of a container's memory, and its use (version 2).
CGROUP = Path("/sys/fs/cgroup")
#: Most tokens of a pool, and the largest share of free memory for its hidden states.
_POOL_TOKENS, _POOL_SHARE = 1 << 20, 0.25


def free_memory(device: torch.device) -> int:
    """Free bytes of the device: of a GPU's memory, or of the machine's and, in a container, within
    its limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        return max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):  # no such limit
        return int(free)


def affordable(device: torch.device, per_token: int, least: int) -> int:
    """Tokens of a pool that fits into the free memory, given the bytes of each; at least `least`.
    By halving, so that all machines with enough memory use equal batches."""
    room, tokens = _POOL_SHARE * free_memory(device), _POOL_TOKENS
    while tokens > least and tokens * per_token > room:
        tokens //= 2
    return max(tokens, least)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the error is a lack of memory, for which torch has no class of error on CPUs."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
