"""Normalised entropy: equation 7 of the paper."""

import math

import pytest
import torch

from fastbert.uncertainty import normalised_entropy


def test_equation_7():
    p = torch.tensor([0.7, 0.2, 0.06, 0.04], dtype=torch.float64)
    expected = sum(float(x) * math.log(x) for x in p) / math.log(1 / 4)
    assert normalised_entropy(p.log()).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 5, 77])
def test_range(classes):
    assert normalised_entropy(torch.full((classes,), -math.log(classes))).item() == 1.0
    certain = torch.full((classes,), -1e4)
    certain[0] = 0.0
    assert normalised_entropy(certain).item() == 0.0


def test_shape():
    assert normalised_entropy(torch.randn(3, 7, 5).log_softmax(-1)).shape == (3, 7)
