"""How much memory is free for a model's states, and whether it was too little."""

from pathlib import Path

import psutil
import torch

#: Where Linux shows the limit of a container's memory, and what it uses of that (version 2).
CGROUP = Path("/sys/fs/cgroup")
#: Most tokens of a pool, and the share of the free memory that its hidden states may take.
_POOL_TOKENS, _POOL_SHARE = 1 << 20, 0.25


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device: of a GPU's memory, or of the machine's and, in a
    container, of what it may have."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        return max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):  # no such limit
        return int(free)


def affordable(device: torch.device, per_token: int, least: int) -> int:
    """Tokens of a pool that fits well into the memory that is free now, of so many bytes each; at
    least so many. By halves, so that all machines with enough of it batch alike."""
    room, tokens = _POOL_SHARE * free_memory(device), _POOL_TOKENS
    while tokens > least and tokens * per_token > room:
        tokens //= 2
    return max(tokens, least)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that there was too little. On CPUs torch has no class of error for that."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
