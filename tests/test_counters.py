"""Per-slice counters: what is declared once is found everywhere."""

import json
import os
import shutil
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import ROOT
from support.made_up_history import ROWS, a_record
from support.records import record
from support.shards import random_texts, write_shard

from fastbert.exits.exit import Exit
from fastbert.exits.question import Question
from fastbert.inference.decisions import Predictions
from fastbert.tasks.questions import Questions
from pipelines.labelling.classify import statistics_of
from pipelines.labelling.summary import RUNS, Tally, prices, startup, totals
from pipelines.output.history import STATISTICS
from pipelines.output.manifests import records_of
from pipelines.output.record import Record
from pipelines.output.statistics import MEASURES, SliceStats

#: The one declaration of each, and the line that measures it.
DECLARED = """\
    odd_rows: Count = measured(0, "Rows of odd length.", total="odd_rows", exported=True)
    exit_odd_rows: list[Count] = measured(list, "Odd by exit.", "exit", total="odd_by_exit",
                                          by_exit=True, exported=True)
"""
MEASURED = """\
        odd_rows=int((lengths % 2).sum()),
        exit_odd_rows=by_exit(lengths % 2),
"""
#: Labels, and looks wherever a counter belongs.
SCRIPT = """
import json, sys
import pipelines
from support.labelling import settings
from support.stages import InProcess
from pipelines.labelling.job import label
from pipelines.reports import analytics
from pipelines.labelling.metrics import COUNTERS

source, output, checkpoint = sys.argv[1:]
summary = label(settings(source, output, checkpoint, speed=0.5, run_id="one"), InProcess())
found = analytics.open(output)
print(json.dumps({
    "place": pipelines.__file__,
    "summary": [summary["odd_rows"], summary["odd_by_exit"]],
    "exits": found.query("select sum(odd_rows) as n from exits").n.tolist(),
    "column": found.query("select any_value(slice_odd_rows) as n from exits").n.tolist(),
    "slices": found.query("select odd_rows as n from slices").n.tolist(),
    "runs": [int(n) for n in found.query("select odd_rows as n from runs").n],
    "counters": sorted(name for name in COUNTERS if "odd" in name),
}))
"""


def test_a_new_counter_is_one_field_and_the_line_that_measures_it(tmp_path, checkpoint):
    """In the record, in statistics, summaries and views, and in Prometheus."""
    code = tmp_path / "code"
    shutil.copytree(ROOT / "pipelines", code / "pipelines")
    for name, before, lines in (
        ("output/statistics.py", "    # fmt: on\n", DECLARED),
        ("labelling/classify.py", "        tokens=int(", MEASURED),
    ):
        file = code / "pipelines" / name
        text = file.read_text()
        assert text.count(before) == 1
        file.write_text(text.replace(before, lines + before))
    write_shard(tmp_path / "in" / "a.parquet", random_texts(9))
    places = [str(code), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "in"), str(tmp_path / "out"), checkpoint],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("place") == str(code / "pipelines" / "__init__.py")
    (path,) = (tmp_path / "out" / "ledger" / "manifests").iterdir()
    (kept,) = pq.read_table(path).to_pylist()
    odd, by_exit = kept["odd_rows"], kept["exit_odd_rows"]
    assert 0 < odd == sum(by_exit) < 9
    assert found == {
        "summary": [odd, by_exit],
        "exits": [odd],
        "column": [odd],
        "slices": [odd],
        "runs": [odd],
        "counters": ["fastbert_odd_by_exit", "fastbert_odd_rows"],
    }


def test_columns_and_keys_keep_their_names():
    """Readers of outputs know them."""
    assert {*STATISTICS.names} >= {
        *("run_id", "slice_id", "shard", "first_row", "exit_layer", "rows", "tokens", "flops"),
        *("slice_rows", "slice_full_flops", "slice_audit_rows", "slice_audit_agreements"),
        *("slice_audit_flops", "slice_read_seconds", "slice_tokenize_seconds", "precision"),
        *("slice_device_seconds", "slice_commit_seconds", "device", "committed_at"),
        *("slice_retries", "slice_quarantined", "labels", "uncertainties", "audit_rows"),
        *("audit_agreements", "errors"),
    }
    keys = """run_id output model checkpoint operating_point criterion thresholds shards
        slices_up_to_date slices_removed slices_labelled rows error_rows quarantined_slices retries
        tokens exits labels mean_exit_layer flops full_flops flops_speedup audit_rows audit_flops
        device_seconds bad_shards audit_agreement audit_interval promised_agreement exit_drift
        exit_drift_p alarms started_at seconds price price_per_million_rows exit_code"""
    assert [name for name in RUNS.names if name in keys.split()] == keys.split()
    types = {"rows": pa.int64(), "flops": pa.decimal128(38), "exits": pa.list_(pa.int64())}
    assert {name: RUNS.field(name).type for name in types} == types


def test_sums_are_those_of_the_slices():
    first = record("a", exit_labels=[{"x": 5}, {"y": 3}, {}])
    second = record("b", exit_labels=[{"y": 5}, {"x": 1}, {"y": 1}], quarantined=True)
    found = totals(Tally([first, second]))
    assert found["exits"] == [10, 6, 2]
    assert found["labels"] == {"y": 9, "x": 6}
    assert list(found["labels"]) == ["y", "x"]
    assert (found["flops"], found["full_flops"], found["flops_speedup"]) == (2800, 5400, 1.929)
    assert found["quarantined_slices"] == 1
    assert found["mean_exit_layer"] == round((10 + 12 + 6) / 18, 4)
    none = totals(Tally())
    assert (none["rows"], none["exits"], none["labels"], none["mean_exit_layer"]) == (
        0,
        [],
        {},
        None,
    )


@pytest.mark.parametrize("together", [1, 7, 100])
def test_a_tally_is_the_sum_of_its_slices_and_holds_few_of_them(together, monkeypatch):
    monkeypatch.setattr("pipelines.labelling.summary._TOGETHER", together)
    source, done, alive = np.random.default_rng(0), Tally(), list[weakref.ref]()
    at, made = datetime(2026, 1, 1, tzinfo=UTC), []
    for number in source.permutation(47):
        one = replace(a_record("night-1", at, int(number), bool(number % 2), source), retries=1)
        made.append(asdict(one))
        done.add(one)
        alive.append(weakref.ref(one))
        del one
        assert sum(each() is not None for each in alive) <= together + 1  # and the first
    found, records = totals(done), [Record(**values) for values in made]
    assert (found["slices_labelled"], found["rows"], found["retries"]) == (47, 47 * ROWS, 47)
    assert found["exits"] == [sum(some) for some in zip(*(r.exits for r in records), strict=True)]
    assert found["flops"] == sum(sum(r.exit_flops) for r in records)
    labels = Counter()
    for values in (each for r in records for each in r.exit_labels):
        labels.update(values)
    assert found["labels"] == labels
    assert done.audit_agreements == sum(r.audit_agreements for r in records)
    assert found["device_seconds"] == round(sum(r.device_seconds for r in records), 2)
    assert prices(done, 3600.0)["price"] == pytest.approx(found["device_seconds"], abs=0.01)
    assert startup(done, at) == startup(Tally(sorted(records, key=str)), at) is not None
    assert records_of(done.table()) == records


def test_statistics_of_answers():
    """Three rows that leave at the first of two exits, and one at the last."""
    asked = Questions([Question()], ["no", "yes"])
    answers = Predictions.none(4, asked.only)
    answers.answer["label"] = [0, 1, 1, 1]
    answers.deep["label"] = [0, 0, 1, 0]
    answers.audited[:3] = True
    answers.exit[:] = [0, 0, 1, 0]
    answers.uncertainty[:] = [0.01, 0.02, 0.99, 1.0]
    cost = SimpleNamespace(
        exits=[Exit(1), Exit(2)],
        row_flops=lambda lengths, exits: lengths * (10 * exits + 9),
        full_flops=lambda lengths: lengths * 20,
    )
    read = SliceStats(read_seconds=0.5)
    found = statistics_of(read, [answers], np.array([3, 4, 5, 6]), cost, asked)
    assert (found.exit_answers, found.exit_agreements) == ([], [])
    assert (found.tokens, found.full_flops, found.read_seconds) == (18, 360, 0.5)
    assert (found.exits, found.exit_tokens, found.exit_flops) == ([3, 1], [13, 5], [117, 95])
    assert found.exit_labels == [{"yes": 2, "no": 1}, {"yes": 1}]
    assert (found.exit_audit_rows, found.exit_audit_agreements) == ([2, 1], [1, 1])
    assert (found.audit_rows, found.audit_agreements, found.audit_flops) == (3, 2, 70)
    assert [sum(bins) for bins in found.exit_uncertainties] == [3, 1]
    assert found.exit_uncertainties[0][-1] == found.exit_uncertainties[1][-1] == 1


def test_every_measurement_says_what_it_means():
    assert all(measure.meaning.endswith(".") for measure in MEASURES)


def test_statistics_of_several_questions():
    """A row counts where it leaves, its answers where they were given; it agrees if all do."""
    named = [Question(name="a", classes=2), Question("several-labels", "b", 1)]
    asked = Questions(named, ["no", "yes", "odd"])
    a, b = (Predictions.none(3, each.task) for each in asked)
    a.answer["label"], a.deep["label"] = [0, 1, 1], [0, 0, 1]
    b.answer["labels"], b.deep["labels"] = [[True], [False], [True]], [[True], [False], [False]]
    a.exit[:], b.exit[:] = [0, 0, 1], [0, 1, 0]
    a.uncertainty[:], b.uncertainty[:] = [0.2, 0.99, 0.3], [0.1, 0.4, 0.98]
    for each in (a, b):
        each.audited[:] = True
    cost = SimpleNamespace(
        exits=[Exit(1), Exit(2)],
        row_flops=lambda lengths, exits: lengths * (10 * exits + 9),
        full_flops=lambda lengths: lengths * 20,
    )
    found = statistics_of(SliceStats(), [a, b], np.array([3, 4, 5]), cost, asked)
    assert (found.exits, found.exit_tokens, found.exit_flops) == ([1, 2], [3, 9], [27, 171])
    assert found.exit_answers == [{"a": 2, "b": 2}, {"a": 1, "b": 1}]
    assert found.exit_agreements == [{"a": 1, "b": 1}, {"a": 1, "b": 1}]
    assert found.exit_audit_agreements == [1, 0]
    assert found.exit_labels == [
        {"a: no": 1, "a: yes": 1, "b: odd": 2}, {"a: yes": 1, "b: (none)": 1},
    ]  # fmt: skip
    bins = [np.flatnonzero(each).tolist() for each in found.exit_uncertainties]
    assert bins == [[4], [6, 8]]  # of the question that was answered last
