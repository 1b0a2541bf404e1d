"""What all benchmarks share: where they ran, and how runs against the clock are taken."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import ROOT


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, Python, the versions of torch, transformers and `packages`, and the commit
    that is checked out, None outside of git."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        {
            "processor": names[0] if names else platform.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        | {package: version(package) for package in ("torch", "transformers", *packages)}
        | {"commit": commit()}
    )


def commit(checkout: Path = ROOT) -> str | None:
    """What is checked out, "-dirty" with changes to other files than results."""
    if shutil.which("git") is None:
        return None
    git = partial(subprocess.run, cwd=checkout, capture_output=True, text=True)
    found = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
    changes = git(["git", "status", "--porcelain", "--", ".", ":!benchmarks/results"]).stdout
    return found + "-dirty" * bool(changes) if found else None


def interleaved(
    contenders: dict[str, Callable[[], Any]], rounds: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of `rounds` runs of each contender, taken in turns.

    Machines are shared, and their speed drifts: only runs side by side can be compared, and only
    by their medians. `warm_up` runs each once before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-1 if warm_up else 0, rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster `fast` is than `slow`: the median over rounds of their ratio."""
    pairs = zip(seconds[slow], seconds[fast], strict=True)
    return round(median(a / b for a, b in pairs), 3)
