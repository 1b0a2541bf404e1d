"""At most one run holds an output, and a dead one does not hold it for ever."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from support.stages import a_run

from fastbert.errors import FastBertError, InputError
from pipelines.input.shards import Shard
from pipelines.input.slices import Slice
from pipelines.labelling.commit import Commit
from pipelines.output.lock import LOCK, LockLost, OutputHeld, RunLock, holds, read_lock
from pipelines.output.storage import Created, Storage

QUICK = {"beat": 0.05, "expiry": 0.5, "settle": 0.02}


@contextmanager
def locked(*arguments, **times):
    lock = RunLock(*arguments, **times)
    try:
        yield lock.acquire()
    finally:
        lock.release()


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def put_lock(storage: Storage, **changes) -> dict:
    """The lock of a run that is not us, on another machine unless `changes` say otherwise."""
    owner = {"token": "theirs", "run_id": "night-1", "host": "elsewhere", "machine": "m", "pid": 1}
    owner |= {"started": 1, "beat": 0} | changes
    storage.put(LOCK, json.dumps(owner).encode())
    return owner


def test_held_then_free_again(storage):
    with locked(storage, "night-1", **QUICK) as lock:
        assert holds(storage, lock.token)
        assert read_lock(storage)["run_id"] == "night-1"
        with pytest.raises(OutputHeld, match="night-1"), locked(storage, "night-2", **QUICK):
            pytest.fail("two runs at once")
        lock.check()
    assert read_lock(storage) is None
    with locked(storage, "night-2", **QUICK):
        pass


def test_a_run_that_raises_lets_go(storage):
    with pytest.raises(KeyError), locked(storage, "night-1", **QUICK):
        raise KeyError
    assert read_lock(storage) is None


def test_the_heartbeat_outlives_the_expiry(storage):
    with locked(storage, "night-1", **QUICK) as lock:
        time.sleep(2 * QUICK["expiry"])
        lock.check()
        assert read_lock(storage)["beat"] > 5


def test_a_silent_owner_elsewhere_is_watched_then_replaced(storage):
    put_lock(storage)
    started = time.monotonic()
    with locked(storage, "night-2", **QUICK) as lock:
        assert time.monotonic() - started >= QUICK["expiry"]
        assert holds(storage, lock.token)


def test_an_owner_elsewhere_that_beats_is_left_alone(storage):
    put_lock(storage)
    timer = threading.Timer(0.1, lambda: put_lock(storage, beat=1))
    timer.start()
    with pytest.raises(OutputHeld, match="run night-1 on elsewhere"):
        RunLock(storage, "night-2", **QUICK).acquire()
    assert holds(storage, "theirs")


def test_a_dead_process_of_this_machine_is_replaced_at_once(storage):
    """The owner is killed while it holds the lock; no expiry is waited for."""
    code = (
        "import sys, os, signal; from pipelines.output.lock import RunLock;"
        "from pipelines.output.storage import Storage;"
        f"RunLock(Storage({storage.url!r}), 'night-1').acquire();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert read_lock(storage)["run_id"] == "night-1"
    started = time.monotonic()
    with locked(storage, "night-2", expiry=60):
        assert time.monotonic() - started < 10


def test_a_process_id_that_is_used_again_is_another_process(storage):
    with locked(storage, "night-1", **QUICK):
        mine = read_lock(storage)
    put_lock(storage, **mine | {"token": "theirs", "started": mine["started"] - 1})
    started = time.monotonic()
    with locked(storage, "night-2", beat=0.05, expiry=60, settle=0.02):
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"\xff"])
def test_a_lock_that_cannot_be_read_expires(storage, garbage):
    storage.put(LOCK, garbage)
    with locked(storage, "night-1", **QUICK) as lock:
        assert holds(storage, lock.token)


def test_waits_between_looks_where_the_lock_comes_and_goes(storage, monkeypatch):
    """Stores whose listings lag show no lock although one cannot be made."""
    tries = []
    create = storage.create

    def late(path, data):
        tries.append(path)
        return create(path, data) if len(tries) > 3 else Created.NOT

    monkeypatch.setattr(storage, "create", late)
    began = time.monotonic()
    with locked(storage, "night-1", beat=0.4, expiry=5, settle=0.02):
        assert time.monotonic() - began > 0.3
    assert len(tries) == 4


class NotAtomic(Storage):
    """Lets all who create at the same time succeed, as Swift may."""

    def create(self, path: str, data: bytes) -> Created:
        self.put(path, data)
        return Created.PERHAPS


@pytest.mark.parametrize("kind", [Storage, NotAtomic])
def test_of_many_at_once_one_wins(tmp_path, kind):
    start, outcomes = threading.Barrier(8), []
    done = threading.Event()

    def run(k: int) -> None:
        start.wait()
        try:
            with locked(kind(str(tmp_path)), f"run-{k}", beat=0.05, expiry=5, settle=0.5):
                outcomes.append("held")
                done.wait(10)
        except OutputHeld:
            outcomes.append("refused")

    threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(outcomes) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + ["refused"] * 7


def test_who_was_replaced_notices_and_removes_nothing(storage):
    with locked(storage, "night-2", **QUICK) as lock:
        put_lock(storage)
        time.sleep(4 * QUICK["beat"])
        with pytest.raises(OutputHeld, match="lost the output to run night-1 on elsewhere"):
            lock.check()
    assert holds(storage, "theirs")


class Away(Storage):
    """A store that answers nothing while it is `down`, or only no writes."""

    down = ""

    def put(self, path: str, data: bytes) -> None:
        if self.down:
            raise ConnectionError("503 SlowDown")
        super().put(path, data)

    def read(self, paths: list[str]) -> dict[str, bytes]:
        if self.down == "wholly":
            raise ConnectionError("503 SlowDown")
        return super().read(paths)


@pytest.mark.parametrize("down", ["wholly", "for writes"])
def test_an_outage_longer_than_the_expiry(tmp_path, down):
    """While it lasts it is the reason; afterwards the lock is renewed, and the run goes on."""
    storage = Away(str(tmp_path))
    with locked(storage, "night-1", beat=0.05, expiry=0.2, settle=0.02) as lock:
        storage.down = down
        time.sleep(0.4)
        with pytest.raises(FastBertError, match=r"renewed for \d+ s: 503 SlowDown") as error:
            lock.check()
        assert error.value.exit_code == 1
        storage.down = ""
        lock.check()
        assert holds(storage, lock.token)
        time.sleep(0.1)
        lock.check()
    assert read_lock(storage) is None


def test_an_outage_in_which_another_run_took_over(tmp_path):
    storage = Away(str(tmp_path))
    with locked(storage, "night-1", beat=0.05, expiry=0.2, settle=0.02) as lock:
        storage.down = "wholly"
        time.sleep(0.4)
        put_lock(Storage(storage.url))
        storage.down = ""
        with pytest.raises(OutputHeld, match="lost the output to run night-1 on elsewhere"):
            lock.check()
    assert holds(storage, "theirs")


def test_another_run_that_takes_over_between_look_and_renewal(storage, monkeypatch):
    """The last writer wins, as where the lock is taken."""
    with locked(storage, "night-1", beat=60, expiry=0.05, settle=0.1) as lock:
        time.sleep(0.1)
        other = Storage(storage.url)
        taken = threading.Timer(0.05, lambda: put_lock(other))
        taken.start()
        with pytest.raises(OutputHeld, match="elsewhere"):
            lock.check()
        taken.join()
    assert holds(storage, "theirs")


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_lock_that_is_nobodys_is_no_other_run(storage, content):
    """Removed or overwritten by hand: exit code 4 would mean that another run does the work."""
    with locked(storage, "night-1", **QUICK) as lock:
        if content is None:
            storage.remove(LOCK)
        else:
            storage.put(LOCK, content)
        time.sleep(4 * QUICK["beat"])
        with pytest.raises(FastBertError, match=r"ledger/lock.json (is gone|cannot be read)") as e:
            lock.check()
        assert e.value.exit_code == 1


def test_what_can_neither_be_created_nor_read_is_no_endless_wait(tmp_path):
    (tmp_path / "ledger").mkdir()
    (tmp_path / LOCK).symlink_to("nowhere")
    with pytest.raises(FastBertError, match=r"lock.json can neither be created nor read"):
        RunLock(Storage(str(tmp_path)), "night-1", beat=0.05, expiry=0.2, settle=0).acquire()


def test_a_lock_without_a_process_expires(storage):
    """Of this machine, as it says; written by whomever."""
    with locked(storage, "night-1", **QUICK):
        mine = read_lock(storage)
    del mine["pid"]
    put_lock(storage, **mine | {"token": "theirs", "pid": None})
    with locked(storage, "night-2", **QUICK) as lock:
        assert holds(storage, lock.token)


def test_whoever_is_interrupted_while_taking_it_leaves_none(storage, monkeypatch):
    create = storage.create

    def interrupted(*what):
        assert create(*what) is Created.ALONE
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "create", interrupted)
        with pytest.raises(KeyboardInterrupt), locked(storage, "night-1", **QUICK):
            pytest.fail("it was not interrupted")
    assert read_lock(storage) is None


def test_whoever_is_interrupted_before_the_second_look_leaves_none(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    storage = NotAtomic(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt), locked(storage, "night-1", **QUICK):
            pytest.fail("it was not interrupted")
    assert read_lock(storage) is None


def test_a_lock_that_cannot_be_removed_is_said(storage, monkeypatch, caplog):
    lock = RunLock(storage, "night-1", **QUICK).acquire()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", lambda _: (_ for _ in ()).throw(ConnectionError("away")))
        lock.release()
    assert "could not remove the run lock, which expires after 0.5 s: away" in caplog.text
    lock.release()
    assert read_lock(storage) is None


def test_a_lock_that_was_never_made_is_not_said_to_expire(storage, monkeypatch, caplog):
    def refuse(*_):
        raise InputError("no credentials")

    for request in ("create", "read"):
        monkeypatch.setattr(storage, request, refuse)
    with pytest.raises(InputError), locked(storage, "night-1", **QUICK):
        pytest.fail("it was made")
    assert caplog.text == ""


def test_a_beat_behind_the_end_is_no_fault(storage, caplog):
    lock = RunLock(storage, "night-1", **QUICK).acquire()
    lock.release()
    lock._renew()
    lock.check()
    assert (read_lock(storage), caplog.text) == (None, "")


def test_nothing_is_committed_without_the_lock(storage):
    """A commit of a run that was replaced, and does not know it yet."""
    import pyarrow as pa

    from pipelines.labelling.work import Work

    work = Work(Slice(Shard("file:///x.parquet", "x", "v"), 1, 0, 1), pa.table({"a": [1]}))
    commit = Commit(a_run(output=storage.url, lock="mine"))
    with pytest.raises(LockLost, match="is gone") as error:
        commit(work)
    assert error.value.exit_code == 1
    put_lock(storage)
    with pytest.raises(OutputHeld):
        commit(work)
    assert storage.paths("table", "") == set()
