"""Resources of this machine that a process may use."""

import math
import os
from pathlib import Path

#: Mount points of control groups on Linux: version 2, or version 1 by controller.
CGROUPS = Path("/sys/fs/cgroup")


def gpus() -> int:
    """GPUs that torch sees."""
    import torch

    return torch.cuda.device_count()


def cores() -> int:
    """CPU cores that this process may use: of the machine, by its affinity and its container's
    quota; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # on Linux
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min(allowed, _quota(CGROUPS))))


def _quota(root: Path) -> float:
    """Cores' worth of time of the control group mounted at `root`, as a container sees its own;
    infinite without a limit."""
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            text = " ".join((root / name).read_text() for name in names)
            quota, period = map(float, text.replace("max", "inf").split())
        except (OSError, ValueError):
            continue
        return quota / period if quota > 0 and period > 0 else math.inf  # version 1: -1
    return math.inf
