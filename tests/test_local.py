"""The executor on one machine: bounded, quiet, and gone with its driver."""

import json
import multiprocessing
import os
import signal
import subprocess
import time
from contextlib import closing, nullcontext

import psutil
import pytest
from support.labelling import label_command, settings
from support.shards import random_texts, write_shard
from support.stages import a_run

from fastbert.errors import FastBertError, InputError
from pipelines.input.shards import find_shards
from pipelines.input.slices import Slice
from pipelines.labelling.work import Work
from pipelines.output.statistics import SliceStats
from pipelines.running import local
from pipelines.running.child import Child
from pipelines.running.executor import choose
from pipelines.running.local import LocalExecutor
from pipelines.running.stages import Committing, Labelling, Reading

pytestmark = pytest.mark.integration

SLICES = 40


class Counting:
    """Notes how many slices it has had."""

    def __init__(self, run, *_) -> None:
        self.journal = f"{run.output}/{type(self).__name__}"

    def __call__(self, work: Work) -> Work:
        with open(self.journal, "a") as file:
            file.write(".")
        return work


class Read(Counting):
    pass


class Label(Counting):
    def __call__(self, work: Work) -> Work:
        time.sleep(0.05)
        return super().__call__(work)


class Record(Counting):
    def __call__(self, work: Work) -> SliceStats:
        super().__call__(work)
        return work.stats


class FastReading(Reading):
    made_by = f"{__name__}:Read"


class SlowLabelling(Labelling):
    made_by = f"{__name__}:Label"


class Recording(Committing):
    made_by = f"{__name__}:Record"


class Stillborn(Labelling):
    """Ends before its process has said a word."""

    @classmethod
    def load(cls):
        os._exit(7)


@pytest.fixture
def corpus(tmp_path):
    write_shard(tmp_path / "in" / "a.parquet", random_texts(SLICES))
    return tmp_path / "in"


def outcomes(corpus, output, *stages):
    output.mkdir()
    shard = find_shards([str(corpus)])[0]
    slices = [Slice(shard, SLICES, first, 1) for first in range(SLICES)]
    with closing(LocalExecutor(stages)) as executor:
        resources = executor.resources(settings(corpus, output, "none", speed=0.5))
        yield from executor.run(a_run(output=str(output)), slices, resources)


def test_readers_do_not_run_away(corpus, tmp_path):
    """Neither from the model, nor from a consumer that is slow."""
    output, ahead = tmp_path / "out", []
    found = outcomes(corpus, output, FastReading, SlowLabelling, Recording)
    for done, _ in enumerate(found, 1):
        ahead.append(os.path.getsize(output / "Read") - done)
    assert len(ahead) == SLICES
    most = local._WAITING + 3 * local._GIVEN + 1
    assert max(ahead) <= 2 * most < SLICES


def test_a_process_that_dies_before_its_first_word(corpus, tmp_path):
    found = outcomes(corpus, tmp_path / "out", FastReading, Stillborn, Recording)
    with pytest.raises(FastBertError, match="the process for labelling died 3 times at its start"):
        list(found)
    assert not psutil.Process().children()[1:]  # the tracker of resources stays


@pytest.fixture
def driver(tmp_path, checkpoint):
    """A job at work, in a process group of its own."""
    write_shard(tmp_path / "in" / "a.parquet", random_texts(5000))
    command = label_command(tmp_path / "in", tmp_path / "out", checkpoint, 0.5)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/table/*.parquet")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.communicate()


def test_children_end_with_a_driver_that_is_killed(driver):
    children = psutil.Process(driver.pid).children(recursive=True)
    names = {" ".join(child.cmdline()).strip() for child in children}
    assert {"fastbert: reading 1", "fastbert: labelling 1", "fastbert: committing 1"} <= names
    listening = [c for child in children for c in child.net_connections() if c.status == "LISTEN"]
    assert listening == []
    driver.kill()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_ctrl_c_is_the_drivers(driver):
    os.killpg(driver.pid, signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "Traceback" not in said


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&- <&-"])
def test_closed_streams(closed, corpus, tmp_path, checkpoint):
    command = label_command(corpus, tmp_path / "out", checkpoint, 0.5)
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], check=False)
    assert done.returncode == 0
    assert len(list(tmp_path.glob("out/table/*.parquet"))) == 4


def test_what_takes_ray_is_refused():
    for changes in ({"replicas": "1:2"}, {"gpus_per_replica": 2.0}):
        with pytest.raises(InputError, match="pass --executor ray"):
            LocalExecutor().resources(settings("in", "out", "model", speed=0.5, **changes))


@pytest.fixture
def child():
    child = Child(1, Committing, limit=2)
    yield child
    child.end()


def test_a_call_of_a_child(child, caplog):
    """It says what it returns, raises and logs; if it dies of it, another one is asked."""
    mine = child.call("os:getpid")
    assert mine not in (os.getpid(), None)
    child.call("logging:warning", "odd %s", "texts")
    assert caplog.messages == ["odd texts"]
    with pytest.raises(InputError, match="no_such_folder"):
        child.call("fastbert.checkpoint:fetch_checkpoint", "no_such_folder")
    os.kill(mine, signal.SIGKILL)
    assert child.call("os:getpid") not in (mine, os.getpid())
    with pytest.raises(FastBertError, match="committing died 2 times at its start"):
        child.call("os:abort")


def test_the_choice(monkeypatch):
    def chosen(**changes) -> str:
        return type(choose(settings("in", "out", "model", speed=0.5, **changes))).__name__

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(LocalExecutor, "start", lambda *_: None)
    monkeypatch.setattr(LocalExecutor, "gpus", lambda _: 0)
    assert chosen() == chosen(replicas="1", executor="local") == "LocalExecutor"
    assert chosen(executor="ray") == chosen(replicas="1:2") == "RayExecutor"
    monkeypatch.setattr(LocalExecutor, "gpus", lambda _: 2)
    assert chosen() == "RayExecutor"
    assert chosen(gpus_per_replica=0) == "LocalExecutor"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert chosen(gpus_per_replica=0) == "RayExecutor"


@pytest.mark.parametrize("gpus", [2, FastBertError("no torch")])
def test_who_only_counts_the_gpus_leaves_no_process(monkeypatch, gpus):
    def call(*_):
        assert len(multiprocessing.active_children()) == 3
        if isinstance(gpus, FastBertError):
            raise gpus
        return gpus

    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(LocalExecutor, "call", call)
    with nullcontext() if gpus == 2 else pytest.raises(FastBertError, match="no torch"):
        assert not isinstance(choose(settings("in", "out", "model", speed=0.5)), LocalExecutor)
    assert multiprocessing.active_children() == []


def test_its_counters_are_in_a_file(corpus, tmp_path, checkpoint):
    path = tmp_path / "labels.prom"
    command = label_command(corpus, tmp_path / "out", checkpoint, 0.5)
    done = subprocess.run([*command, "--metrics-file", path], capture_output=True, text=True)
    assert json.loads(done.stdout)["rows"] == SLICES
    assert f'fastbert_rows_total{{output="{tmp_path / "out"}"}} {SLICES}.0' in path.read_text()
