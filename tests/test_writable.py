"""What cannot be written is found out before hours are spent on it, and nothing is left behind."""

import os
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from support.jobs import invoke, refused
from support.models import tiny_fastbert
from support.shards import random_texts, write_shard

from fastbert import writable
from fastbert.errors import FastBertError, InputError
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model, save_checkpoint
from fastbert.writable import check_file, check_folder


class Store(fsspec.AbstractFileSystem):
    """A remote store: one bucket, `there`, and what it is told to raise."""

    protocol = "store"
    cachable = False
    objects: dict[str, bytes] = {}
    raises: Exception | None = None

    def info(self, path, **options):
        raise FileNotFoundError(path)

    def makedirs(self, path, exist_ok=False):
        raise AssertionError("this may make a bucket")

    def pipe_file(self, path, value, mode="overwrite", **options):
        if self.raises:
            raise self.raises
        if not path.startswith("there/"):
            raise FileNotFoundError(f"the bucket of {path} does not exist")
        self.objects[path] = value

    def rm_file(self, path):
        del self.objects[path]


@pytest.fixture
def store(monkeypatch) -> type[Store]:
    fsspec.register_implementation("store", Store, clobber=True)
    monkeypatch.setattr(writable, "_BUCKETS", {"store"})
    monkeypatch.setattr(Store, "objects", {})
    return Store


def test_nothing_is_left_behind(tmp_path, store):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept").write_text("x")
    check_folder(str(tmp_path / "old"))
    check_folder(str(tmp_path / "new" / "er" / "m"))
    check_file(str(tmp_path / "other" / "page.html"))
    check_file(str(tmp_path / "old" / "kept"))
    check_folder(f"file://{tmp_path}/with%20sign #1")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "kept"]
    assert (tmp_path / "old" / "kept").read_text() == "x"
    check_folder("store://there/models/news")
    assert store.objects == {}


@pytest.mark.parametrize(
    "url",
    [
        "file",
        "file/m",
        "gone",
        "gone/m",
        "memory://m",
        "m*",
        "n" * 256,
        "nix://m",
        "store://lost/m",
    ],
)
def test_no_folder_that_can_be_written(url, tmp_path, store):
    (tmp_path / "file").write_text("x")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError) as error:
        check_folder(url if "://" in url else str(tmp_path / url))
    assert url.rpartition("/")[0] in str(error.value)
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "gone"}


def test_no_file_that_can_be_written(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        check_file(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        check_folder(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError("Forbidden"), 2),
        (TimeoutError("no answer"), 1),
        (OSError(5, "SlowDown"), 1),
    ],
)
def test_what_a_store_says(error, code, store, monkeypatch):
    monkeypatch.setattr(store, "raises", error)
    with pytest.raises(FastBertError, match="cannot write 'store://there/m'") as raised:
        check_folder("store://there/m")
    assert raised.value.exit_code == code


def test_commands_look_first(checkpoint, tmp_path, monkeypatch):
    write_shard(tmp_path / "a.parquet", random_texts(9), label=list("xyxyxyxyx"))
    place = tmp_path / "a.parquet" / "m"
    nothing = tmp_path / "nothing"  # is found out later
    for arguments in (
        ["train", "--train", nothing, "--output", place],
        ["distill", "--teacher", nothing, "--corpus", nothing, "--output", place],
        ["convert", "--checkpoint", nothing, "--vocabulary", nothing, "--label", "a", "--label",
         "b", "--output", place],
    ):  # fmt: skip
        refused(invoke(*arguments), f"cannot write '{place}'", "Not a directory")

    def denied(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    calibrating = ["calibrate", "--model", checkpoint, "--corpus", nothing]
    refused(invoke(*calibrating, "--max-disagreement", "0.1"), "cannot write", "Permission denied")


def test_a_checkpoint_that_cannot_be_saved_after_all_is_kept(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def expired(*_, **__):
        raise PermissionError("the token has expired")

    monkeypatch.setattr(LocalFileSystem, "put_file", expired)
    model, tokenizer = tiny_fastbert(seed=5), load_tokenizer(Path(checkpoint))
    with pytest.raises(
        FastBertError, match="token has expired; the checkpoint is kept in"
    ) as error:
        save_checkpoint(model, tokenizer, str(tmp_path / "m"))
    assert error.value.exit_code == 1
    (kept,) = tmp_path.glob("checkpoint-*")
    assert str(kept) in str(error.value)
    load_model(kept)
