"""What takes torch to find out before a run may change anything: whether model and machine fit."""

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
    """The precision to label in, where `asked` is one or "auto", and an output is labelled in the
    one of `before`.

    Raises InputError for a checkpoint that readers and replicas could not work with, for `pairs`
    of texts where there are some, and for a precision that the device does not do.
    """
    load_checkpoint(checkpoint, pairs)
    # An output goes on as it was.
    precision = before if before and asked == "auto" else resolve(asked, device, proven_in)
    require(precision, device, emulated=asked == precision)
    return precision
