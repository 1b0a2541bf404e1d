"""What is promised of two labellings of the same rows in float32."""

import numpy as np
import pyarrow as pa


def assert_same_labels(found: pa.Table, expected: pa.Table) -> None:
    """Equal, except that scores and uncertainties may differ by 1e-6: other numbers of threads and
    other processors add in another order."""
    inexact = ["score", "uncertainty"]
    assert found.drop_columns(inexact).equals(expected.drop_columns(inexact))
    for name in inexact:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-6)
