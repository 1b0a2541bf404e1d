"""Folders, links and special files where shards are expected."""

import os
import stat
from pathlib import Path

import pytest

from hostile.harness import (
    TEXTS,
    Expected,
    Kinds,
    bad,
    check_kind,
    numbered,
    write,
)

KINDS = Kinds()


@KINDS.add
def folder_named_like_a_shard(folder: Path) -> Expected:
    expected = write(folder, numbered(TEXTS), "x.parquet/part")
    expected.good |= write(folder, numbered(TEXTS[:3]), "x.parquet/other.parquet/deep").good
    return expected


@KINDS.add
def empty_folder_named_like_a_shard(folder: Path) -> Expected:
    (folder / "x.parquet").mkdir()
    return Expected()


@KINDS.add
def folder_named_like_an_output(folder: Path) -> Expected:
    """`x`'s labelled rows would be a file where the other's need a folder."""
    expected = write(folder, numbered(TEXTS))
    write(folder, numbered(TEXTS), "x.000000000000.parquet/part")
    expected.bad = {"x.000000000000.parquet/part.parquet": "a folder of its path has the name of"}
    return expected


@KINDS.add
def shard_named_like_an_output(folder: Path) -> Expected:
    expected = write(folder, numbered(TEXTS))
    expected.good |= write(folder, numbered(TEXTS[:7]), "x.000000000000").good
    expected.good |= write(folder, numbered(TEXTS[:5]), "x.000000000000.000000000000").good
    return expected


@KINDS.add
def fifo(folder: Path) -> Expected:
    os.mkfifo(folder / "x.parquet")
    return bad(folder, "is not a regular file")


@KINDS.add
def socket_file(folder: Path) -> Expected:
    os.mknod(folder / "x.parquet", stat.S_IFSOCK | 0o600)
    return bad(folder, "is not a regular file")


@KINDS.add
def dangling_link(folder: Path) -> Expected:
    (folder / "x.parquet").symlink_to(folder / "nowhere")
    return bad(folder, "a broken link")


@KINDS.add
def link_to_itself(folder: Path) -> Expected:
    (folder / "x.parquet").symlink_to("x.parquet")
    return bad(folder, "is not a regular file|link")


@KINDS.add
def link_to_a_fifo(folder: Path) -> Expected:
    os.mkfifo(folder / "pipe")
    (folder / "x.parquet").symlink_to("pipe")
    return bad(folder, "is not a regular file")


@KINDS.add
def link_to_a_file(folder: Path) -> Expected:
    expected = write(folder.parent / "store", numbered(TEXTS), "blob")
    (folder / "x.parquet").symlink_to(folder.parent / "store" / "blob.parquet")
    return Expected(good={"x": expected.good["blob"]})


@KINDS.add
def hard_links(folder: Path) -> Expected:
    expected = write(folder, numbered(TEXTS))
    os.link(folder / "x.parquet", folder / "y.parquet")
    expected.good["y"] = expected.good["x"]
    return expected


@KINDS.add
def loop_of_folders(folder: Path) -> Expected:
    expected = write(folder, numbered(TEXTS), "a/b/x")
    (folder / "a" / "b" / "loop").symlink_to(folder / "a")
    (folder / "a" / "loop.parquet").symlink_to(folder)
    return expected


@KINDS.add
def link_to_a_folder(folder: Path) -> Expected:
    expected = write(folder.parent / "elsewhere", numbered(TEXTS), "x")
    (folder / "dt=1").mkdir()
    (folder / "dt=1" / "day").symlink_to(folder.parent / "elsewhere")
    expected.good["dt=1/day/x"] = expected.good.pop("x")
    return expected


@KINDS.add
def hidden_files_and_neighbours(folder: Path) -> Expected:
    """As Spark does, this one takes `*.parquet` whose names are not hidden; nothing else."""
    expected = write(folder, numbered(TEXTS), "_dt=1/x")
    for name in (
        ".parquet",
        "..parquet",
        "_x.parquet",
        "_SUCCESS",
        "x.parquet.crc",
        "x.parquet.tmp",
        "x.PARQUET",
        "parquet",
    ):
        (folder / name).write_bytes(b"no parquet")
    return expected


@pytest.mark.parametrize("name", KINDS)
def test_kind(name, tmp_path, job):
    check_kind(KINDS[name], tmp_path, job)
