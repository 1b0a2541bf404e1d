"""What is asked of an operating point: exactly one thing, and a share is a share."""

import pytest

from fastbert.calibration.goal import Goal
from fastbert.errors import InputError
from fastbert.exits.operating_point import Promise


@pytest.mark.parametrize(
    ("asked", "title", "promise"),
    [
        ({"max_disagreement": 0.01}, "max-disagreement-0.01", Promise(0.01, 0.95)),
        ({"max_accuracy_loss": 0.1, "confidence": 0.9, "promise_rows": 50},
         "max-accuracy-loss-0.1", Promise(0.1, 0.9, 50, "accuracy-loss")),
        ({"speedup": 3}, "speedup-3", None),
        ({"speedup": 3, "name": "fast"}, "fast", None),
    ],
)  # fmt: skip
def test_a_goal_names_and_promises_what_is_asked(asked, title, promise):
    goal = Goal(**asked)
    assert (goal.title, goal.promise) == (title, promise)


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
        {"speedup": 2, "shape": "auto"},
    ],
)
def test_goals_that_nothing_can_reach_are_refused(asked):
    with pytest.raises(InputError, match="--"):
        Goal(**asked)
