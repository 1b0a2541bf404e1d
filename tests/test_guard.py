"""Attempts are counted where no slice can take the counts away."""

from unittest.mock import MagicMock

from pipelines.running import ray_data
from pipelines.running.guard import Attempts


def test_attempts_are_counted_on_the_drivers_node(monkeypatch):
    """A slice that ends its whole node would else begin at nought again and again."""
    ray = MagicMock()
    ray.get_runtime_context().get_node_id.return_value = "0" * 56
    monkeypatch.setattr(ray_data, "ray", ray)
    ray_data.start_attempts("attempts")
    options = ray.remote.return_value.options.call_args.kwargs
    where = options["scheduling_strategy"]
    assert (where.node_id, where.soft) == ("0" * 56, False)


def test_rows_under_way_are_those_of_slices_at_work():
    attempts = Attempts()
    attempts.advance("a", 3.5)
    attempts.advance("b", 2.0)
    attempts.advance("a", 5.0)
    assert attempts.under_way() == 7.0
    attempts.end("a", "labelling")
    assert attempts.under_way() == 2.0


def test_an_attempt_counts_until_it_ends():
    attempts = Attempts()
    assert [attempts.begin("slice", "reading") for _ in range(3)] == [0, 1, 2]
    assert attempts.begin("slice", "labelling") == 0
    attempts.end("slice", "reading")
    assert attempts.begin("slice", "reading") == 0
