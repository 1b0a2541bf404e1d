"""Transfers between host and device, without waiting if possible."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def on_device(values: NDArray[Any], device: torch.device) -> torch.Tensor:
    """A copy on the device; the host continues meanwhile."""
    tensor = torch.from_numpy(values)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def on_host(tensor: torch.Tensor) -> Callable[[], NDArray[Any]]:
    """A function that returns its numbers, once they are there; other work can be done before the
    call."""
    if tensor.device.type == "cpu":
        return tensor.numpy
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def numbers() -> NDArray[Any]:
        done.synchronize()
        found: NDArray[Any] = copy.numpy()
        return found

    return numbers


def places(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], device: torch.device
) -> torch.Tensor:
    """Indices of the tokens of rows that begin at `starts` (n,), row after row: int64 (M,)."""
    total, ends = int(lengths.sum()), np.cumsum(lengths)
    moved, sizes = on_device(starts - (ends - lengths), device), on_device(lengths, device)
    tokens = torch.arange(total, device=device)
    return tokens + torch.repeat_interleave(moved, sizes, output_size=total)
