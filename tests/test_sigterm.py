"""A run may be stopped at any moment: the lock is gone, the next run goes on."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable

import pytest
from support.labelling import settings, table_of
from support.shards import random_texts, write_shard
from support.stages import InProcess

from fastbert.errors import Stopped
from pipelines.labelling import job as jobs
from pipelines.labelling import signals
from pipelines.labelling.job import label
from pipelines.labelling.signals import Stops
from pipelines.output.lock import RunLock, read_lock
from pipelines.output.storage import Storage

REQUESTS = ("put", "create", "paths", "read", "footer", "remove")


class Store:
    """Counts all requests to stores, and may do something before each of them."""

    def __init__(self, monkeypatch) -> None:
        self.asked: list[str] = []
        self.before: Callable[[int], None] = lambda _: None
        for name in REQUESTS:
            monkeypatch.setattr(Storage, name, self.counted(getattr(Storage, name)))

    def counted(self, request):
        def counted(*arguments):
            self.asked.append(request.__name__)
            self.before(len(self.asked))
            return request(*arguments)

        return counted


@pytest.fixture
def store(monkeypatch) -> Store:
    monkeypatch.setattr(jobs, "RunLock", lambda s, r: RunLock(s, r, settle=0))
    monkeypatch.setattr(signals, "_AGAIN", 0.005)  # several times in a slow request
    return Store(monkeypatch)


class Cheap(InProcess):
    """Handlers of its own, as Ray has."""

    def resources(self, settings):
        signal.signal(signal.SIGTERM, lambda *_: os._exit(15))
        return super().resources(settings)

    def call(self, function, *arguments):
        return "fp32"  # the check of the model is not what is tested, and slow


@pytest.mark.parametrize(
    ("work", "again"),
    [("planning", False), ("planning", True), ("adopting", False), ("labelling", True)],
)
def test_stopped_at_every_request(tmp_path, checkpoint, store, monkeypatch, work, again):
    """Of a slow store. One signal, or one with each request that follows, Ctrl-C in turn."""
    write_shard(tmp_path / "in" / "a.parquet", random_texts(12))

    def run(name: str) -> dict:
        return label(settings(tmp_path / "in", tmp_path / name, checkpoint, speed=0.5), Cheap())

    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    assert run("0")["rows"] == 12
    expected, at = table_of(tmp_path / "0"), 0
    while True:
        at += 1
        output = "0" if work == "planning" else str(at)
        if work == "adopting":  # what lies in `table/` has lost its records
            shutil.copytree(tmp_path / "0" / "table", tmp_path / output / "table")

        def stop(number: int, at: int = at) -> None:
            if number == at or (again and number > at):
                os.kill(os.getpid(), signal.SIGINT if number % 2 else signal.SIGTERM)
            if number >= at:
                time.sleep(0.02)

        store.asked.clear()
        store.before = stop
        said = None
        try:
            run(output)
        except Stopped as error:
            said = error
        store.before = lambda _: None
        if len(store.asked) < at:
            break
        assert read_lock(Storage(str(tmp_path / output))) is None, (at, store.asked)
        assert str(said).startswith(("stopped by SIGTERM; what", "stopped by Ctrl-C; what")), at
        assert said.exit_code == (130 if "Ctrl-C" in str(said) else 1)
        assert run(output)["exit_code"] == 0
        assert table_of(tmp_path / output).equals(expected), (at, store.asked)
    assert handlers == [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    assert at > {"planning": 8, "adopting": 12, "labelling": 15}[work]


def test_a_request_that_is_under_way_ends_before_the_lock_is_removed(tmp_path, monkeypatch):
    """Clients send it in threads of their own, which nothing interrupts."""
    storage, real = Storage(str(tmp_path)), Storage.create

    def create(*arguments):
        def send() -> None:
            time.sleep(0.2)
            real(*arguments)

        sending = threading.Thread(target=send)
        sending.start()
        os.kill(os.getpid(), signal.SIGTERM)
        sending.join()
        return True

    monkeypatch.setattr(Storage, "create", create)
    lock = RunLock(storage, "night-1", settle=0)
    with pytest.raises(Stopped):
        Stops().during(lock.acquire, lock.release)
    time.sleep(0.3)
    assert read_lock(storage) is None


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_what_swallows_the_signal_gets_it_again(kind, monkeypatch):
    monkeypatch.setattr(signals, "_AGAIN", 0.02)
    swallowed, ended = [], []

    def work() -> None:
        while True:
            try:
                if not swallowed:
                    os.kill(os.getpid(), kind)
                time.sleep(10)
            except BaseException as error:
                swallowed.append(error)
                if len(swallowed) == 3:
                    raise

    with pytest.raises(Stopped):
        Stops().during(work, lambda: ended.append(time.sleep(0.1)))
    assert len(swallowed) == 3
    assert ended == [None]


def test_the_end_is_whole_wherever_signals_hit(monkeypatch):
    """A rain of signals, so that some come between the work and its end."""
    monkeypatch.setattr(signals, "_AGAIN", 1e-4)
    listener = threading.get_ident()
    for _ in range(30):
        parts: list[int] = []
        rain = threading.Event()

        def pour(rain: threading.Event = rain) -> None:
            while not rain.is_set():  # to one thread: another could take it when handlers are back
                signal.pthread_kill(listener, signal.SIGTERM)

        cloud = threading.Thread(target=pour)

        def end(parts: list[int] = parts) -> None:
            for k in range(1000):
                parts.append(k)

        def end_and_dry(end=end, rain=rain, cloud=cloud) -> None:
            end()
            rain.set()
            cloud.join()

        with pytest.raises(Stopped):
            Stops().during(lambda cloud=cloud: (cloud.start(), time.sleep(10)), end_and_dry)
        assert parts == list(range(1000))


def test_ctrl_c_stays_ignored_where_it_was():
    """As below `nohup`, or behind a shell's `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert Stops().during(lambda: os.kill(os.getpid(), signal.SIGINT), lambda: None) is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_no_signals_but_an_end():
    ended = []
    thread = threading.Thread(target=lambda: Stops().during(int, lambda: ended.append(1)))
    thread.start()
    thread.join()
    assert ended == [1]
