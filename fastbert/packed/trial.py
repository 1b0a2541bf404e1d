"""Kernels and private operators are tried on known numbers before they are trusted."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

log = logging.getLogger(__name__)


def for_gpus(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels for GPUs are made for such numbers there: for those of 16 bits."""
    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)


@contextmanager
def tried(what: str) -> Iterator[None]:
    """Go on without what is not installed, and, with a warning, without what fails."""
    try:
        yield
    except ImportError as error:
        log.info("%s is not there: %s", what, error)
    except Exception as error:
        # Whatever a compiler, a driver or another release of a library may raise.
        log.warning(
            "%s does not work here, and is left out: %s: %s", what, type(error).__name__, error
        )


def agreed(what: str, same: bool) -> bool:
    """Whether numbers were the `same`, which is said where they were not."""
    if not same:
        log.warning("%s gives other numbers here, and is left out", what)
    return same
