"""Checks that need torch, before a run may change anything: whether model and machine fit."""

from pathlib import Path

from fastbert.inference.precision import require, resolve
from fastbert.weights import load_checkpoint


def preflight(
    checkpoint: Path,
    pairs: bool,
    asked: str,
    before: str | None,
    device: str,
    proven_in: str | None,
) -> str:
    """The precision to label in: `asked` is one or "auto", and `before` is that of the output.

    Raises InputError for a checkpoint that readers and replicas cannot use, with `pairs` for pairs
    of texts, and for a precision that the device does not support.
    """
    load_checkpoint(checkpoint, pairs)
    # An output keeps its precision.
    precision = before if before and asked == "auto" else resolve(asked, device, proven_in)
    require(precision, device, emulated=asked == precision)
    return precision
