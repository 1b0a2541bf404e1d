"""What kills processes costs its own rows only, and who stops the job finds it intact."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import psutil
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from packaging.version import Version
from support.labelling import label_command, settings, table_of
from support.shards import WORDS, random_texts, write_shard
from support.stages import InProcess, a_run

from fastbert.checkpoint import fetch_checkpoint
from fastbert.errors import InputError
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tokenizer import load_tokenizer
from jobs.options import command as command_of
from pipelines.input.shards import find_shards
from pipelines.input.slices import Slice, SliceReader
from pipelines.labelling.classify import Classify
from pipelines.labelling.job import label
from pipelines.labelling.read import ReadTokenize
from pipelines.output.ledger import Ledger
from pipelines.output.lock import RunLock, read_lock
from pipelines.output.storage import Storage
from pipelines.running import executor as executors
from pipelines.running.local import LocalExecutor
from pipelines.running.ray_executor import RayExecutor
from pipelines.running.stages import Committing, Labelling, Reading

pytestmark = pytest.mark.integration

ROWS, SLICE, LIMIT, TIMEOUT = 70, 10, 2, 9.0


def leave() -> None:
    os._exit(3)


def crash() -> None:
    ctypes.string_at(0)


def run_out_of_memory() -> None:
    """As the kernel ends it."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """In C, and without letting go of the interpreter."""
    ctypes.PyDLL(None).sleep(1000)


def fail() -> None:
    raise ValueError("bad row")


#: A word, and what the model does of a text with it.
LABEL_POISON = {"bridge": crash, "market": run_out_of_memory, "night": hang, "bread": fail}
#: A word, and what the tokenizer does of it.
READ_POISON = {"quiet": leave}
#: The slice that ends each process that opens it.
UNREADABLE = 50


class PoisonedClassify(Classify):
    """A replica whose model has texts it cannot bear."""

    def __init__(self, run, *rest) -> None:
        super().__init__(run, *rest)
        tokenizer = load_tokenizer(fetch_checkpoint(run.model))
        harm = {tokenizer.convert_tokens_to_ids(w): do for w, do in LABEL_POISON.items()}
        real = self.engine.answer

        def answer(tokens, *more, **options):
            for id in set(tokens.ids.tolist()) & harm.keys():
                harm[id]()
            return real(tokens, *more, **options)

        self.engine.answer = answer


class PoisonedReader(SliceReader):
    """Dies of one slice."""

    def read(self, piece):
        if piece.first_row == UNREADABLE:
            leave()
        return super().read(piece)


class PoisonedTokenizer(Tokenizer):
    """Dies of some words."""

    def __call__(self, texts, *rest):
        for word in READ_POISON:
            if any(word in text for text in texts):
                READ_POISON[word]()
        return super().__call__(texts, *rest)


class PoisonedReadTokenize(ReadTokenize):
    """That tokenizer, on a reader that dies of one slice."""

    def __init__(self, run) -> None:
        super().__init__(run)
        self.rows = PoisonedReader(self.columns)
        self.tokenize.__class__ = PoisonedTokenizer


class PoisonedLabelling(Labelling):
    make = PoisonedClassify


class PoisonedReading(Reading):
    make = PoisonedReadTokenize


@pytest.fixture(scope="module")
def local_ray():
    """One for all tests: to start it takes as long as many of them."""
    import ray

    from pipelines.running.cluster import start_ray

    os.environ.pop("RAY_ADDRESS", None)
    start_ray()
    module = sys.modules[__name__]  # workers cannot import it
    ray.cloudpickle.register_pickle_by_value(module)
    yield
    ray.cloudpickle.unregister_pickle_by_value(module)
    ray.shutdown()


@pytest.fixture(params=["local", "ray"])
def executor(request):
    """Makes an executor of some stages."""
    if request.param == "ray":
        request.getfixturevalue("local_ray")
    return {"local": LocalExecutor, "ray": RayExecutor}[request.param]


def texts_without_poison(rows: int) -> list[str]:
    poison = {*LABEL_POISON, *READ_POISON}
    return [" ".join(w for w in text.split() if w not in poison) or WORDS[0]
            for text in random_texts(rows)]  # fmt: skip


def test_poison_costs_its_own_rows_only(tmp_path, checkpoint, executor):
    """Every second slice kills in its own way; the job ends by itself, and the rest is labelled."""
    texts = texts_without_poison(ROWS)
    # Both executors have the same children: each is to survive a death by another signal.
    local = ["market", "night", "bread", "quiet"]
    poison = local if executor is LocalExecutor else ["bridge", "quiet"]
    for k, word in enumerate(poison):
        texts[k * SLICE + 3] += f" {word}"
    write_shard(tmp_path / "in" / "a.parquet", texts)
    asked = settings(
        tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5, slice_attempts=LIMIT,
        slice_timeout=TIMEOUT,
    )  # fmt: skip
    poisoned = executor((PoisonedReading, PoisonedLabelling, Committing))
    summary = label(asked, poisoned)

    slices = {int(path.name.split(".")[1]): pq.read_table(path).to_pylist()
              for path in (tmp_path / "out" / "table").iterdir()}  # fmt: skip
    assert sorted(slices) == [first for first in range(0, ROWS, SLICE) if first != UNREADABLE]
    (reason,) = summary["bad_shards"].values()
    assert "given up: reading" in reason
    deaths = 0
    for k, word in enumerate(poison):
        rows = slices.pop(k * SLICE)
        assert [row["id"] for row in rows] == list(range(k * SLICE, (k + 1) * SLICE)), word
        errors = [row["error"] for row in rows]
        if LABEL_POISON.get(word) is fail:
            assert errors.pop(3) == "the model failed: ValueError: bad row"
            assert set(errors) == {None}
        else:
            deaths += 1
            doing = "reading" if word in READ_POISON else "labelling"
            assert all(f"given up: {doing} its slice ended" in error for error in errors), word
    assert all(row["error"] is None for rows in slices.values() for row in rows)
    failed = "bread" in poison
    assert summary["quarantined_slices"] == deaths == len(poison) - failed
    assert summary["error_rows"] == deaths * SLICE + failed
    assert summary["retries"] >= deaths * LIMIT
    assert summary["exit_code"] == 3

    # The next night nothing is tried again but what has no rows; on demand the rest is, too.
    again = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5, dry_run=True)
    assert label(again, InProcess())["rows_to_label"] == SLICE
    healed = label(
        settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5, retry_quarantined=True),
        InProcess(),
    )
    assert healed["rows"] == (deaths + 1) * SLICE
    assert healed["error_rows"] == healed["exit_code"] == 0


class DeadOnArrival(Labelling):
    make = staticmethod(lambda *_: leave())


def test_a_model_that_kills_its_process_ends_the_job(tmp_path, checkpoint, executor):
    write_shard(tmp_path / "in" / "a.parquet", random_texts(3))
    asked = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5, slice_attempts=LIMIT)
    with pytest.raises(Exception, match="died 2 times at its start"):
        label(asked, executor((Reading, DeadOnArrival, Committing)))
    assert read_lock(Storage(str(tmp_path / "out"))) is None


def refuse(self, *_):
    raise InputError("the checkpoint has changed")


class Refuses(Labelling):
    make = refuse


class RefusesToCommit(Committing):
    make = refuse


@pytest.mark.parametrize(
    "stages", [(Reading, Refuses, Committing), (Reading, Labelling, RefusesToCommit)]
)
def test_what_a_worker_refuses_is_one_line(tmp_path, checkpoint, executor, monkeypatch, stages):
    """With its exit code, and no traceback."""
    write_shard(tmp_path / "in" / "a.parquet", random_texts(25))
    monkeypatch.setattr(executors, "choose", lambda _: executor(stages))
    command = label_command(tmp_path / "in", tmp_path / "out", checkpoint, 0.5)
    result = CliRunner().invoke(command_of("label"), command[2:])
    assert result.exit_code == 2
    assert "Error: the checkpoint has changed" in result.stderr.splitlines()
    assert "Traceback" not in result.stderr
    assert read_lock(Storage(str(tmp_path / "out"))) is None


def test_closing_the_stages_ends_their_processes(tmp_path, checkpoint, executor):
    """Not only when the garbage is collected."""
    runs = executor()
    if isinstance(runs, RayExecutor) and Version(version("ray")) < Version("2.60"):
        pytest.skip("seen with 2.60; with 2.52 they end with the driver")
    write_shard(tmp_path / "in" / "a.parquet", random_texts(200))
    asked = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5)
    shard = find_shards([str(tmp_path / "in")])[0]
    slices = [Slice(shard, 200, first, 2) for first in range(0, 200, 2)]
    outcomes = runs.run(a_run(checkpoint, asked.output), slices, runs.resources(asked))
    next(outcomes)
    assert stages_at_work()
    outcomes.close()
    deadline = time.monotonic() + 20
    while stages_at_work():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_that_is_refused_leaves_no_process(tmp_path, checkpoint, monkeypatch):
    """They have started to check the model."""
    write_shard(tmp_path / "in" / "a.parquet", random_texts(3))

    def refuse(*_) -> None:
        assert len(multiprocessing.active_children()) == 3
        raise InputError("no")

    monkeypatch.setattr("pipelines.labelling.job.check_precision", refuse)
    asked = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5)
    with pytest.raises(InputError, match="no"):
        label(asked, LocalExecutor())
    assert multiprocessing.active_children() == []


def stages_at_work() -> list[str]:
    names = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is none, either
            names.append(" ".join(process.cmdline()))
    return [name for name in names if name.startswith(("ray::MapWorker", "fastbert: "))]


class SlowToStart(Labelling):
    make = staticmethod(lambda *_: time.sleep(3))


def test_slow_starts_side_by_side_are_no_deaths(local_ray):
    """Slower than any slice may be: a large model with small slices."""
    import ray

    from pipelines.running.guard import Guard
    from pipelines.running.ray_data import AttemptsOfActor, OnBlocks, start_attempts

    attempts = start_attempts("attempts")
    guard = Guard(AttemptsOfActor("attempts"), LIMIT, 1.0)
    actor = ray.remote(num_cpus=0)(OnBlocks)
    actors = [actor.remote(SlowToStart, guard) for _ in range(LIMIT + 2)]
    ray.get([each.__ray_ready__.remote() for each in actors])
    ray.kill(attempts)


def test_held_by_one_run(tmp_path, checkpoint):
    """Exit code 4 for the second, as long as the first lives."""
    write_shard(tmp_path / "in" / "a.parquet", random_texts(9))
    first = RunLock(Storage(str(tmp_path / "out")), "night-1", beat=0.5)
    try:
        first.acquire()
        command = label_command(tmp_path / "in", tmp_path / "out", checkpoint, 0.5)
        second = subprocess.run(command, capture_output=True, text=True)
    finally:
        first.release()
    assert second.returncode == 4, second.stderr
    assert (
        f"run night-1 on {os.uname().nodename} (process {os.getpid()}) is working on"
        in second.stderr
    )
    assert second.stdout == ""


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_stopped_by_sigterm(tmp_path, checkpoint, executor):
    """As schedulers stop a job: within 3 s, with all commits kept and the output free again, for
    whichever executor goes on."""
    write_shard(tmp_path / "in" / "a.parquet", random_texts(400))
    output = tmp_path / "out"
    command = label_command(tmp_path / "in", output, checkpoint, 0.5, "--executor", executor)
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    storage = Storage(str(output))

    def wait_until(reached: Callable[[], bool]) -> None:
        while not reached():
            assert driver.poll() is None, driver.stderr.read()
            time.sleep(0.05)

    wait_until(lambda: len(storage.paths("ledger/slices", ".json")) >= 3)
    driver.send_signal(signal.SIGTERM)
    started = time.monotonic()
    while read_lock(storage) is not None:
        assert time.monotonic() - started < 3, "a job server would have killed it by now"
        time.sleep(0.01)
    _, said = driver.communicate()
    assert driver.returncode == 1, said
    assert "Error: stopped by SIGTERM" in said
    done = len(storage.paths("table", ".parquet"))
    assert 3 <= done < 40
    records = Ledger(storage).committed()
    assert not records.stray or len(records.stray) == 1
    asked = settings(tmp_path / "in", output, checkpoint, speed=0.5, audit_rate=0.3)
    summary = label(asked, InProcess())
    assert summary["slices_up_to_date"] == len(records.commits)
    assert [row["id"] for row in table_of(output).to_pylist()] == list(range(400))


class Dawdling(Labelling):
    def report(self, slice, rows):
        self.guard.attempts.advance(slice, rows)
        time.sleep(0.4)


def test_a_slice_at_work_is_heard_of(tmp_path, checkpoint, executor, monkeypatch):
    """Before it is labelled: one slice is all there is."""
    monkeypatch.setattr("pipelines.labelling.progress._SECONDS_BETWEEN_LOOKS", 0.05)
    write_shard(tmp_path / "in" / "a.parquet", random_texts(400))
    asked = settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.0, slice_rows=400)
    at_work, heard = executor((Reading, Dawdling, Committing)), []
    real = at_work.under_way
    monkeypatch.setattr(at_work, "under_way", lambda: heard.append(real()) or heard[-1])
    assert label(asked, at_work)["rows"] == 400
    assert len({rows for rows in heard if 0 < rows <= 400}) >= 2, heard
