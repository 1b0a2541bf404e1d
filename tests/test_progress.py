"""Progress: lines in logs, a bar on a terminal, and what they say."""

import io
import logging
import sys
import time

import pytest
from support.records import record

from pipelines.input.shards import Shard
from pipelines.input.slices import Slice
from pipelines.labelling import progress
from pipelines.labelling.progress import counting
from pipelines.labelling.work import Failed


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_few_seconds_and_one_at_the_end(clock, caplog):
    caplog.set_level(logging.INFO)
    with counting(400, price_per_hour=36.0) as counter:
        for seconds in (5, 6, 2):
            clock[0] += seconds
            counter.add(record("a", 0, 100, exits=[80, 0, 20], device_seconds=4.0))
        clock[0] += 1
        counter.add(Failed(Slice(Shard("x", "x", "v"), 100, 0, 100), "cannot be read"))
    assert [record.getMessage() for record in caplog.records] == [
        "200 of 400 rows (50 %)  18 rows/s  layer 1.40  cost 0.08  11 s left",
        "400 of 400 rows (100 %)  29 rows/s  layer 1.40  cost 0.12  0 s left",
    ]


def test_slices_at_work_count_and_silence_is_broken(clock, caplog, monkeypatch):
    """Whether or not anything comes to its end; what was said is never taken back."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LOOKS", 0.01)
    under_way = [0.0]

    def said(lines: int) -> str:
        until = time.perf_counter() + 20
        while len(caplog.records) < lines and time.perf_counter() < until:
            clock[0] += 11
            time.sleep(0.03)
        return caplog.records[lines - 1].getMessage()

    with counting(400, under_way=lambda: under_way[0]) as counter:
        assert said(1).startswith("0 of 400 rows (0 %)  0 rows/s")
        under_way[0] = 130.4
        assert said(len(caplog.records) + 2).startswith("130 of 400 rows (33 %)")
        counter.add(record("a", 0, 100, exits=[80, 0, 20]))
        under_way[0] = 0.0
        assert said(len(caplog.records) + 2).startswith("130 of 400 rows (33 %)")
        counter.advance(300)
    ends = [r for r in caplog.records if r.getMessage().startswith("400 of 400")]
    assert len(ends) == 1


def test_nothing_is_said_of_what_is_not_known(clock, caplog):
    caplog.set_level(logging.INFO)
    with counting(10) as counter:
        clock[0] += 2
        counter.advance(10)
    assert [r.getMessage() for r in caplog.records] == ["10 of 10 rows (100 %)  5 rows/s  0 s left"]


def test_a_bar_on_a_terminal(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    with counting(2000, price_per_hour=1.0) as counter:
        counter.add(record("a", 0, 2000, exits=[1000, 1000], device_seconds=7200.0))
    assert "2,000 of 2,000 rows" in terminal.getvalue()
    assert "layer 1.50  cost 2" in terminal.getvalue()
    assert not caplog.records
