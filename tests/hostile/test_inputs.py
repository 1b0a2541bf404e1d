"""Inputs as a whole: not allowed to be read, passed twice, not a folder."""

import os
import re

import pytest
from support.shards import write_shard

from fastbert.errors import InputError
from hostile.harness import (
    GOOD,
    TEXTS,
    bad_file,
    everything,
    rows_of,
)


def test_a_shard_that_must_not_be_read(tmp_path, job, monkeypatch):
    """The tests may run as root, who may read all."""
    write_shard(tmp_path / "in" / "good.parquet", GOOD)
    write_shard(tmp_path / "in" / "x.parquet", TEXTS)

    def denied(path, *arguments, **named):
        if str(path).endswith("x.parquet"):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *arguments, **named)

    monkeypatch.setattr("fsspec.implementations.local.open", denied, raising=False)
    for _ in range(2):
        ((url, reason),) = job()["bad_shards"].items()
        assert bad_file(url, tmp_path) == "x.parquet"
        assert re.search("cannot be read as Parquet: .*Permission denied", reason)
    assert rows_of(tmp_path / "out", "good").num_rows == len(GOOD)


def test_a_folder_that_must_not_be_listed(tmp_path, job, monkeypatch):
    """Its shards are not gone: with --prune their labels would be removed."""
    write_shard(tmp_path / "in" / "good.parquet", GOOD)
    write_shard(tmp_path / "in" / "secret" / "x.parquet", TEXTS)
    job()
    before = everything(tmp_path / "out")
    real = os.scandir

    def denied(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"cannot list .*denied: .*secret'; expected"):
        job(prune=True)
    monkeypatch.undo()
    assert everything(tmp_path / "out") == before


def test_the_same_folder_twice_is_labelled_once(tmp_path, job):
    write_shard(tmp_path / "in" / "good.parquet", GOOD)
    assert job(inputs=("in", "in/", "./in", "in/*.parquet"))["rows"] == len(GOOD)
    assert job()["slices_up_to_date"] == 1


def test_the_same_file_by_two_names_is_refused(tmp_path, job):
    write_shard(tmp_path / "in" / "dt=1" / "x.parquet", GOOD)
    with pytest.raises(InputError, match=r"in --input twice.*pass it once"):
        job(inputs=("in", "in/dt=1/x.parquet"))
    assert not (tmp_path / "out" / "table").exists()


def test_a_fifo_as_input_is_refused(tmp_path, job):
    os.mkfifo(tmp_path / "in")
    with pytest.raises(InputError, match="no Parquet, Arrow, JSON Lines or CSV at"):
        job()
