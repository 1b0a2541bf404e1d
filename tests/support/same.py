"""What is promised of two labellings of the same rows in float32, and of a row's neighbours."""

import numpy as np
import pyarrow as pa
import torch


def assert_same_labels(found: pa.Table, expected: pa.Table) -> None:
    """Equal, except that scores and uncertainties may differ by 1e-6: other numbers of threads and
    other processors add in another order."""
    inexact = ["score", "uncertainty"]
    assert found.drop_columns(inexact).equals(expected.drop_columns(inexact))
    for name in inexact:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-6)


def check_a_row_is_alone(found, x: torch.Tensor, tolerance: float) -> None:
    """`found` is a map; neighbours a thousand times as large must not matter."""
    loud = torch.cat([x, 1000 * x])
    expected = found(x)
    assert (found(loud)[: len(x)] - expected).abs().max() <= tolerance
    for i in (0, len(x) // 2, len(x) - 1):
        assert (found(x[i : i + 1]) - expected[i]).abs().max() <= tolerance
