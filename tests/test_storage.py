"""Objects appear whole or not at all."""

import errno
import os

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from fastbert.errors import FastBertError, InputError
from pipelines.output.retry import Patience
from pipelines.output.storage import Created, Storage


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
    assert storage.create("ledger/lock.json", b"mine") is Created.PERHAPS
    assert storage.create("ledger/lock.json", b"theirs") is Created.NOT
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
    local = isinstance(storage.fs, LocalFileSystem)
    created = storage.create("ledger/lock.json", b"mine")
    assert created is (Created.ALONE if local else Created.PERHAPS)
    assert storage.create("ledger/lock.json", b"theirs") is Created.NOT
    assert storage.read(["ledger/lock.json"]) == {"ledger/lock.json": b"mine"}
    assert storage.paths("staging", "") == set()


def test_a_read_that_fails_is_not_an_absence(tmp_path, monkeypatch):
    """A record that cannot be read for a moment must not be taken for one that was never made."""
    storage = Storage(str(tmp_path))
    storage.put("ledger/a.json", b"{}")
    monkeypatch.setattr(
        type(storage.fs), "cat_file", lambda *_, **__: (_ for _ in ()).throw(PermissionError("no"))
    )
    with pytest.raises(InputError, match="cannot be read: no;"):
        storage.read(["ledger/a.json"])


def failing(error: Exception):
    def fail(*_, **__):
        raise error

    return fail


def test_a_place_where_nothing_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    storage = Storage(str(tmp_path / "file" / "out"))
    for write in (storage.put, storage.create):
        with pytest.raises(InputError, match="file/out/ledger/a' cannot be written: .*Not a dir"):
            write("ledger/a", b"")
    assert storage.read(["ledger/a"]) == {}
    (tmp_path / "ledger").touch()
    for write in (Storage(str(tmp_path)).put, Storage(str(tmp_path)).create):
        with pytest.raises(InputError, match="cannot be written: .*File exists"):
            write("ledger/a", b"")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENAMETOOLONG])
@pytest.mark.parametrize("where", ["makedirs", "replace"])
def test_a_place_that_may_not_be_written_to(tmp_path, monkeypatch, code, where):
    monkeypatch.setattr(os, where, failing(OSError(code, os.strerror(code))))
    with pytest.raises(InputError, match=f"cannot be written: .*{os.strerror(code)}"):
        Storage(str(tmp_path / "out")).put("table/a.parquet", b"")


#: As botocore has it, which need not be installed.
NO_CREDENTIALS = type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("Access Denied"),
        FileNotFoundError("bucket"),
        NO_CREDENTIALS("Unable to locate credentials"),
        OSError("Forbidden: bucket\nand pages of advice"),
    ],
)
def test_a_bucket_that_cannot_be_written_to(storage, monkeypatch, error):
    if storage.root.startswith("/out"):
        monkeypatch.setattr(type(storage.fs), "pipe_file", failing(error))
        for write in (storage.put, storage.create):
            with pytest.raises(InputError, match="memory://out/ledger/a' cannot be written"):
                write("ledger/a", b"")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_said_and_nothing_half_is_left(tmp_path, monkeypatch, code):
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(os, "fsync", failing(OSError(code, os.strerror(code))))
    for write in (storage.put, storage.create):
        with pytest.raises(FastBertError, match=os.strerror(code)) as error:
            write("table/a.parquet", b"rows")
        assert error.value.exit_code == 1
    assert storage.paths("", "") == set()


def test_a_store_that_does_not_answer_is_one_line(storage, monkeypatch):
    storage.patience = Patience(tries=2, longest_pause=0)
    for name in ("cat_file", "cat", "rm_file", "pipe_file", "find"):
        monkeypatch.setattr(type(storage.fs), name, failing(ConnectionError("503")))
    asked = [lambda: storage.read(["a"]), lambda: storage.remove("a")]
    if storage.root.startswith("/out"):
        asked += [lambda: storage.put("a", b""), lambda: storage.paths("table", "")]
    for ask in asked:
        with pytest.raises(
            FastBertError, match=r"does not answer \(ConnectionError: 503\)"
        ) as error:
            ask()
        assert error.value.exit_code == 1


@pytest.mark.parametrize("name", ["o*", "o?", "o[1]"])
def test_a_pattern_is_no_place(tmp_path, name):
    with pytest.raises(InputError, match="is a pattern"):
        Storage(str(tmp_path / name / "out"))
