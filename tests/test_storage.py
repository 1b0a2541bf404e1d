"""Objects appear whole or not at all."""

import errno
import os

import fsspec
import pytest

from fastbert.errors import InputError
from pipelines.output.storage import Storage


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    if request.param == "local":
        yield Storage(str(tmp_path / "out"))
        return
    fsspec.filesystem("memory").store.clear()
    yield Storage("memory://out")
    fsspec.filesystem("memory").store.clear()


def test_put_read_list_remove(storage):
    storage.put("table/dt=1/a.parquet", b"one")
    storage.put("table/b.parquet", b"two")
    storage.put("table/b.parquet", b"three")
    assert storage.paths("table", ".parquet") == {"table/dt=1/a.parquet", "table/b.parquet"}
    assert storage.read(["table/b.parquet", "table/none"]) == {"table/b.parquet": b"three"}
    storage.remove("table/b.parquet")
    storage.remove("table/b.parquet")
    assert storage.paths("table", ".parquet") == {"table/dt=1/a.parquet"}
    assert storage.paths("nowhere", "") == set()


def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    storage.put("ledger/a.json", b"one")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("/ledger"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match="/ledger' cannot be listed: .*Permission denied"):
        storage.paths("ledger", ".json")


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_creating_where_there_are_no_hard_links(tmp_path, monkeypatch, code):
    def link(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    storage = Storage(str(tmp_path))
    assert storage.create("ledger/lock.json", b"mine")
    assert not storage.create("ledger/lock.json", b"theirs")
    assert storage.read(["ledger/lock.json"]) == {"ledger/lock.json": b"mine"}
    assert os.listdir(tmp_path / "staging") == []


def test_a_write_that_dies_leaves_nothing_under_table(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    storage.put("table/a.parquet", b"old")

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        storage.put("table/a.parquet", b"new")
    with pytest.raises(KeyboardInterrupt):
        storage.put("table/b.parquet", b"new")
    assert storage.paths("table", "") == {"table/a.parquet"}
    assert storage.read(["table/a.parquet"]) == {"table/a.parquet": b"old"}
    assert len(storage.paths("staging", "")) == 2
    storage.clear_staging()
    assert storage.paths("staging", "") == set()


def test_create_only_if_absent(storage):
    assert storage.create("ledger/lock.json", b"mine")
    assert not storage.create("ledger/lock.json", b"theirs")
    assert storage.read(["ledger/lock.json"]) == {"ledger/lock.json": b"mine"}
    assert storage.paths("staging", "") == set()


def test_a_read_that_fails_is_not_an_absence(tmp_path, monkeypatch):
    """A record that cannot be read for a moment must not be taken for one that was never made."""
    storage = Storage(str(tmp_path))
    storage.put("ledger/a.json", b"{}")
    monkeypatch.setattr(
        type(storage.fs), "cat_file", lambda *_, **__: (_ for _ in ()).throw(PermissionError("no"))
    )
    with pytest.raises(PermissionError):
        storage.read(["ledger/a.json"])


@pytest.mark.parametrize("name", ["o*", "o?", "o[1]"])
def test_a_pattern_is_no_place(tmp_path, name):
    with pytest.raises(InputError, match="is a pattern"):
        Storage(str(tmp_path / name / "out"))
