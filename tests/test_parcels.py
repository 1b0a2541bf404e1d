"""What travels with a run: its identity, its precision, and a plan that stays what it was."""

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from support import stages
from support.labelling import settings, table_of
from support.records import committed, identity, places, record
from support.shards import random_texts, write_shard
from support.stages import InProcess

from fastbert.errors import InputError
from fastbert.inference import precision as precisions
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard
from pipelines.labelling import classify
from pipelines.labelling import job as jobs
from pipelines.labelling.job import label
from pipelines.labelling.plan import make_plan
from pipelines.output.history import statistics
from pipelines.output.ledger import Ledger
from pipelines.output.lock import OutputHeld, RunLock
from pipelines.output.manifests import rows_of
from pipelines.output.storage import Storage
from pipelines.settings import LabelSettings


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(jobs, "RunLock", lambda s, r: RunLock(s, r, settle=0))


# --- identity


def without_depths(each) -> dict:
    """A record as the first ledgers have it."""
    values = asdict(each)
    del values["exit_depths"], values["recipe"]["exit_depths"]
    return values


def test_outputs_whose_records_name_no_depths_go_on(tmp_path):
    """Their exits lie behind layers 1, 2, ... L."""
    ledger, old = Ledger(Storage(str(tmp_path))), record("a")
    ledger.storage.put(old.path, b"rows")
    text = json.dumps(without_depths(old)).encode()
    ledger.storage.put(f"ledger/slices/{old.slice_id}.json", text)
    output = ledger.committed()
    (found,) = committed(ledger)
    assert found.depths == [1, 2, 3]
    assert statistics(rows_of([found]))["exit_layer"].to_pylist() == [1, 2, 3, None]
    shard = Shard(old.source, "a", old.version)
    plan = make_plan([shard], output, identity(), InputColumns(), 10, "refuse")
    assert (places(plan.up_to_date), plan.todo) == ([("a", 0)], [])
    with pytest.raises(InputError, match=r"exit_depths \[1, 2, 3\], this run has \[0, 1, 3\]"):
        make_plan([shard], output, identity(exit_depths=[0, 1, 3]), InputColumns(), 10, "refuse")


def test_exits_are_told_by_their_depth():
    table = statistics(rows_of([record(exit_depths=[0, 2, 6])]))
    assert table["exit_layer"].to_pylist() == [0, 2, 6, None]


@pytest.mark.parametrize("depths", [[1, 2], [3, 2, 1], [1, 2, 200], [-1, 1, 2]])
def test_depths_that_cannot_be_count_as_no_record(tmp_path, depths):
    ledger, odd = Ledger(Storage(str(tmp_path))), record("a", exit_depths=depths)
    ledger.storage.put(odd.path, b"rows")
    ledger.put(odd)
    assert committed(ledger) == []


# --- the plan


def test_a_run_does_not_change_its_plan(tmp_path, checkpoint, monkeypatch):
    """Nor does a shard that vanishes before it is read."""
    for name in ("a", "b"):
        write_shard(tmp_path / "in" / f"{name}.parquet", random_texts(12))
    (tmp_path / "in" / "c.parquet").write_text("no Parquet")
    plans = []

    def spy(*arguments):
        plans.append(make_plan(*arguments))
        plans.append(copy.deepcopy(plans[0]))
        return plans[0]

    monkeypatch.setattr(jobs, "make_plan", spy)
    asked = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5)
    summary = label(asked, InProcess(lambda: (tmp_path / "in" / "b.parquet").unlink()))
    assert {Path(url).name for url in summary["bad_shards"]} == {"b.parquet", "c.parquet"}
    assert plans[0] == plans[1]
    assert [Path(url).name for url in plans[0].bad_shards] == ["c.parquet"]


def test_a_run_that_loses_the_output_ends_what_it_has_started(tmp_path, checkpoint, monkeypatch):
    write_shard(tmp_path / "in" / "a.parquet", random_texts(30))
    ended = []

    class Watched(InProcess):
        def run(self, *arguments):
            try:
                yield from super().run(*arguments)
            finally:
                ended.append(True)

    class Lost(RunLock):
        asked = 0

        def check(self):
            self.asked += 1
            if self.asked > 0:  # after the first slice
                self.kept = OutputHeld("gone")  # with its traceback, the generator stays alive
                raise self.kept

    monkeypatch.setattr(jobs, "RunLock", lambda s, r: Lost(s, r, settle=0))
    asked = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5)
    with pytest.raises(OutputHeld) as raised:
        label(asked, Watched())
    assert ended
    assert raised.tb
    assert len(committed(Ledger(Storage(asked.output)))) == 1


# --- precision


@pytest.fixture
def processor(monkeypatch):
    """A processor that supports what is in the set, and does all in float32."""
    able = {"fp32", "int8"}
    supports = lambda precision, _: precision in able  # noqa: E731
    monkeypatch.setattr(precisions, "supports", supports)
    monkeypatch.setattr(classify, "DTYPES", dict.fromkeys(("fp32", "bf16", "int8"), torch.float32))
    stages._replica.cache_clear()
    yield able
    stages._replica.cache_clear()


def night(tmp_path, checkpoint, **changes) -> set[str]:
    """A run with one more shard; the precisions of what it has labelled."""
    number = len(list((tmp_path / "in").glob("*"))) if (tmp_path / "in").exists() else 0
    write_shard(tmp_path / "in" / f"{number}.parquet", random_texts(5, seed=number))
    asked = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5, precision="auto")
    name = f"night-{number}"
    label(replace(asked, run_id=name, **changes), InProcess())
    records = committed(Ledger(Storage(asked.output)))
    return {record.precision for record in records if record.run_id == name}


def test_a_new_output_takes_what_the_processor_is_good_at(tmp_path, checkpoint, processor):
    processor.add("bf16")
    assert night(tmp_path, checkpoint) == {"bf16"}


def test_an_output_goes_on_in_its_precision(tmp_path, checkpoint, processor):
    assert night(tmp_path, checkpoint) == {"fp32"}
    processor.add("bf16")
    assert night(tmp_path, checkpoint) == {"fp32"}
    with pytest.raises(InputError, match="labelled in fp32, --precision is bf16.*--relabel"):
        night(tmp_path, checkpoint, precision="bf16")
    assert night(tmp_path, checkpoint, precision="fp32") == {"fp32"}
    assert night(tmp_path, checkpoint, precision="bf16", relabel=True) == {"bf16"}
    records = committed(Ledger(Storage(str(tmp_path / "out"))))
    assert {each.precision for each in records} == {"bf16"}
    assert table_of(tmp_path / "out").num_rows == 5 * len(records) == 25
    assert night(tmp_path, checkpoint) == {"bf16"}


def test_a_worker_refuses_what_it_can_only_emulate(tmp_path, checkpoint, processor):
    """Unless the user has asked for it."""
    assert night(tmp_path, checkpoint, precision="bf16") == {"bf16"}
    with pytest.raises(InputError, match="labels in bf16, which cpu .* does not multiply"):
        night(tmp_path, checkpoint)
    assert night(tmp_path, checkpoint, precision="bf16") == {"bf16"}


def test_an_output_goes_on_in_its_precision_though_all_of_it_has_changed(
    tmp_path, checkpoint, processor
):
    assert night(tmp_path, checkpoint) == {"fp32"}
    processor.add("bf16")
    write_shard(tmp_path / "in" / "0.parquet", random_texts(7, seed=9))
    assert night(tmp_path, checkpoint) == {"fp32"}


def test_another_labelling_does_not_pass_its_precision_on(tmp_path, checkpoint, processor):
    """Not even by shards that are no longer in the input."""
    assert night(tmp_path, checkpoint) == {"fp32"}
    processor.add("bf16")
    (tmp_path / "in" / "0.parquet").rename(tmp_path / "gone.parquet")
    write_shard(tmp_path / "in" / "x.parquet", random_texts(5, seed=9))
    assert night(tmp_path, checkpoint, speed=0.7, relabel=True) == {"bf16"}


def test_what_is_refused_has_changed_nothing(tmp_path, checkpoint, processor):
    assert night(tmp_path, checkpoint, precision="bf16") == {"bf16"}
    files = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.is_file()}
    write_shard(tmp_path / "in" / "0.parquet", random_texts(3, seed=9))
    with pytest.raises(InputError, match="does not multiply"):
        night(tmp_path, checkpoint)
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.is_file()} == files


# --- names of runs


@pytest.mark.parametrize("name", [".", "..", "...", "x" * 201, "é" * 101])
def test_a_run_cannot_be_called_what_no_file_can(name):
    with pytest.raises(InputError, match="--run-id is .* not dots alone, and at most 200 bytes"):
        LabelSettings(input=("in",), output="out", model="model", run_id=name)


@pytest.mark.parametrize("name", ["a.b", "..a", "x" * 200])
def test_other_names_are_fine(name):
    assert LabelSettings(input=("in",), output="out", model="model", run_id=name).run_id == name
