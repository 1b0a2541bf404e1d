"""Trials of kernels and private operators on known numbers, before use."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

log = logging.getLogger(__name__)


def for_gpus(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether GPU kernels support this device and dtype: 16 bits."""
    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)


@contextmanager
def tried(what: str) -> Iterator[None]:
    """Continue without a kernel that is not installed, or, with a warning, that fails."""
    try:
        yield
    except ImportError as error:
        log.info("%s is not available: %s", what, error)
    except Exception as error:
        # Compilers, drivers and other releases of libraries may raise any error.
        log.warning(
            "%s does not work here, and is not used: %s: %s", what, type(error).__name__, error
        )


def agreed(what: str, same: bool) -> bool:
    """Whether numbers were the `same`; warns if not."""
    if not same:
        log.warning("%s gives wrong numbers here, and is not used", what)
    return same
