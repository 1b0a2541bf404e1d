"""What thresholds are compared with: equation 7 of the paper, and its rivals."""

import math

import pytest
import torch

from fastbert.exits.criteria import CRITERIA, normalised_entropy

P = torch.tensor([0.6, 0.2, 0.1, 0.05, 0.03, 0.02], dtype=torch.float64)


def entropy(p: torch.Tensor) -> float:
    return sum(float(x) * math.log(x) for x in p) / math.log(1 / len(p))


def test_equation_7():
    assert normalised_entropy(P.log()).item() == pytest.approx(entropy(P), abs=1e-12)


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("entropy", entropy(P)),
        ("top-entropy", entropy(P[:5] / P[:5].sum())),
        ("max-probability", 0.4),
        ("margin", 1 - (0.6 - 0.2)),
    ],
)
def test_definitions(criterion, expected):
    assert CRITERIA[criterion](P.log()).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("classes", [2, 5, 77])
def test_range(criterion, classes):
    unsure = CRITERIA[criterion](torch.full((classes,), -math.log(classes))).item()
    assert unsure == pytest.approx(1 - 1 / classes if criterion == "max-probability" else 1.0)
    certain = torch.full((classes,), -1e4)
    certain[0] = 0.0
    assert CRITERIA[criterion](certain).item() == 0.0


@pytest.mark.parametrize("criterion", CRITERIA)
def test_shape(criterion):
    found = CRITERIA[criterion](torch.randn(3, 7, 5).log_softmax(-1))
    assert found.shape == (3, 7)
    assert (found >= 0).all()
    assert (found <= 1).all()
