"""What is asked of an operating point: exactly one thing, and a share is a share."""

import pytest

from fastbert.errors import InputError
from pipelines.checkpoints.settings import CalibrateSettings


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"speedup": 2, "max_disagreement": 0.01},
        {"max_disagreement": 0.0},
        {"max_accuracy_loss": 1.0},
        {"max_disagreement": 0.01, "confidence": 1.0},
        {"max_disagreement": 0.01, "promise_rows": 0},
        {"speedup": -1},
        {"speedup": 2, "criterion": "auto"},
    ],
)
def test_goals_that_nothing_can_reach_are_refused(asked):
    with pytest.raises(InputError, match="--"):
        CalibrateSettings(model="m", corpus=("c",), **asked)
