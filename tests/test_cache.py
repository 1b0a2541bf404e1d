"""Copies of remote checkpoints: whole, the newest, one download of each, closed to other users."""

import errno
import os
import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fastbert.cache import local_copy
from fastbert.checkpoint import fetch_checkpoint, fingerprint
from fastbert.errors import FastBertError, InputError

WHAT = "the checkpoint at 'memory://here'"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """Where copies lie in these tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "fastbert"


@pytest.fixture
def store():
    fs = fsspec.filesystem("memory")
    yield fs
    if fs.exists("/here"):
        fs.rm("/here", recursive=True)


def write(store, **files: str) -> None:
    store.pipe({f"/here/{name}": text.encode() for name, text in files.items()})


def copied(store) -> Path:
    return local_copy(store, lambda: sorted(store.ls("/here", detail=False)), WHAT)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_versions_are_copied_once_and_lie_where_only_the_user_may_enter(store, home, monkeypatch):
    write(store, a="1", b="2")
    first = copied(store)
    assert content(first) == {"a": "1", "b": "2"}
    assert first.parent == home
    assert home.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(MemoryFileSystem, "get_file", None)  # nothing is fetched
    assert copied(store) == first


def test_a_new_version_is_another_copy(store):
    write(store, a="1")
    first = copied(store)
    write(store, a="2")
    assert content(copied(store)) == {"a": "2"}
    assert content(first) == {"a": "1"}


def test_many_at_once_download_once(store, monkeypatch):
    write(store, a="1")
    real, fetched, found = MemoryFileSystem.get_file, [], []

    def slowly(fs, name, target, **options):
        fetched.append(name)
        time.sleep(0.2)
        real(fs, name, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", slowly)
    threads = [threading.Thread(target=lambda: found.append(copied(store))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(fetched) == 1


def test_what_is_replaced_while_it_is_copied_is_copied_again(store, monkeypatch):
    write(store, a="old", b="old")
    real, left = MemoryFileSystem.get_file, [1]

    def replaced(fs, name, target, **options):
        if name == "/here/b" and left:
            left.pop()
            write(store, a="new", b="new")
        real(fs, name, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", replaced)
    assert content(copied(store)) == {"a": "new", "b": "new"}


def test_what_never_stops_changing_is_said_to(store, home, monkeypatch):
    write(store, a="0")
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda *_, **__: write(store, a="1"))
    with pytest.raises(FastBertError, match="changed each of the 3 times"):
        copied(store)
    assert [path for path in home.iterdir() if path.is_dir()] == []


def test_a_download_that_was_killed_is_begun_anew(store, home, monkeypatch):
    write(store, a="1", b="2")

    def killed(fs, name, target, **options):
        Path(target).write_text("ha")
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(MemoryFileSystem, "get_file", killed)
        with pytest.raises(KeyboardInterrupt):
            copied(store)
    assert content(copied(store)) == {"a": "1", "b": "2"}
    assert list(home.glob("*.partial")) == []


def test_no_room(store, monkeypatch):
    write(store, a="1")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MemoryFileSystem, "get_file", full)
    with pytest.raises(FastBertError, match=r"XDG_CACHE_HOME.*No space left.*make room"):
        copied(store)


def test_old_versions_go_except_those_in_use(store, home):
    copies = []
    for version in range(7):
        write(store, a=str(version))
        copies.append(copied(store))
        age = (3600 if version % 2 else 40 * 3600) * (8 - version)
        os.utime(copies[-1], (time.time() - age,) * 2)
    killed = home / "0123456789abcdef.partial"
    killed.mkdir()
    os.utime(killed, (0, 0))
    write(store, a="newest")
    newest = copied(store)
    kept = {path for path in home.iterdir() if path.is_dir()}
    assert kept == {newest, *copies[1::2]}  # used within a day
    assert {path.stem for path in home.glob("*.lock")} == {path.name for path in kept}


def test_a_directory_of_somebody_else_is_not_used(store, home, tmp_path, monkeypatch):
    write(store, a="1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home.mkdir(parents=True)
    home.chmod(0o777)
    second = tmp_path / f"fastbert-{os.getuid()}"
    assert copied(store).parent == second
    second.rename(tmp_path / "elsewhere")
    second.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FastBertError, match=r"no place .*mode 700.*XDG_CACHE_HOME"):
        copied(store)


def test_a_user_without_a_home(store, tmp_path, monkeypatch):
    """As in containers that run under any number."""
    write(store, a="1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def homeless(*_):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_cache_dir", homeless)
    assert copied(store).parent == tmp_path / f"fastbert-{os.getuid()}"


def test_readers_fetch_no_weights(checkpoint, store):
    store.put(f"{checkpoint}/", "/here/", recursive=True)
    whole, part = (
        fetch_checkpoint("memory://here"),
        fetch_checkpoint("memory://here", weights=False),
    )
    names = {path.name for path in whole.iterdir()}
    assert {path.name for path in part.iterdir()} == names - {"model.safetensors"}
    expected = fingerprint(Path(checkpoint), weights=False)
    assert fingerprint(part, weights=False) == expected != fingerprint(Path(checkpoint))
    assert fetch_checkpoint("memory://here", expected, weights=False) == part
    store.pipe("/here/vocab.txt", b"other")
    with pytest.raises(InputError, match="has changed since the run began"):
        fetch_checkpoint("memory://here", expected, weights=False)


def test_a_checkpoint_that_may_not_be_read(monkeypatch):
    def refused(*_, **__):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(MemoryFileSystem, "ls", refused)
    with pytest.raises(InputError, match=r"cannot read the checkpoint at 'memory://here': Forb"):
        fetch_checkpoint("memory://here")

    def silent(*_, **__):
        raise TimeoutError("no answer")

    monkeypatch.setattr(MemoryFileSystem, "ls", silent)
    with pytest.raises(FastBertError, match=r"no answer\); run again") as error:
        fetch_checkpoint("memory://here")
    assert error.value.exit_code == 1
