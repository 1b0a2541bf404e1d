"""Foreign files, folders and URLs, walked through all commands that read a corpus: they work, or
are refused in one line."""

import gzip
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from support.jobs import invoke, refused
from support.models import CLASSES, save_tiny_models
from support.shards import random_texts

from fastbert.errors import InputError
from pipelines.input.shards import find_shards

ROWS = 9
TABLE = pa.table(
    {"text": random_texts(ROWS), "label": [f"LABEL_{i % CLASSES}" for i in range(ROWS)]}
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A teacher, which is a backbone, too, and a checkpoint."""
    place = tmp_path_factory.mktemp("odd")
    save_tiny_models(place)
    return place


def walk(place: Path, corpus: object, output: Path) -> dict[str, int]:
    """The exit codes of all commands: 0, or 1 or 2 with one line."""
    learn = ["--output", output, "--distil-epochs", 1, "--max-length", 9]
    model = ["--model", place / "model"]
    calls = {
        "distill": ["--teacher", place / "teacher", "--corpus", corpus, *learn],
        "train": ["--backbone", place / "teacher", "--train", corpus, "--epochs", 1, *learn],
        "evaluate": [*model, "--data", corpus, "--no-timing"],
        "calibrate": [*model, "--corpus", corpus, "--max-disagreement", 0.9],
        "label": [*model, "--input", corpus, "--output", output, "--dry-run", "--speed", 0.5],
    }
    codes = {}
    for job, arguments in calls.items():
        result = invoke(job, *arguments)
        codes[job] = result.exit_code
        assert result.exception is None or isinstance(result.exception, SystemExit)
        if result.exit_code == 2:
            refused(result)
        lines = result.stderr.splitlines()
        assert sum(line.startswith("Error: ") for line in lines) == (result.exit_code != 0)
    return codes


def put(path: Path, table: pa.Table = TABLE, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def socketed(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(os.path.relpath(folder / "a.parquet"))  # 107 bytes at most


def cast(kind: pa.DataType) -> Callable[[Path], None]:
    texts = pa.nulls(ROWS) if kind == pa.null() else TABLE["text"].cast(kind)
    return lambda folder: put(folder / "a.parquet", TABLE.set_column(0, "text", texts))


def log_of(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        put(folder / "data" / "a.parquet")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")

    return make


def dask(folder: Path) -> None:
    footers: list = []
    for name in ("part.0", "part.1"):
        put(folder / f"{name}.parquet", metadata_collector=footers)
        footers[-1].set_file_path(f"{name}.parquet")
    pq.write_metadata(TABLE.schema, folder / "_common_metadata")
    pq.write_metadata(TABLE.schema, folder / "_metadata", metadata_collector=footers)


def hugging_face(folder: Path) -> None:
    put(folder / "data" / "train-00000-of-00001.parquet")
    for name in ("README.md", "dataset_info.json", "state.json", ".gitattributes"):
        (folder / name).write_text("x")


def partitions(folder: Path) -> None:
    for name in (
        "c=a%20b",
        "c=a b",
        "c=%ff",
        "c=x=y",
        "C=1",
        "dt=__HIVE_DEFAULT_PARTITION__",
        "=1",
    ):
        put(folder / name / "a.parquet")


def rubbish(folder: Path) -> None:
    put(folder / "a.parquet")
    for name in ("a.parquet~", "a.parquet.bak", "Thumbs.db", "a.parquet.crc", "b", "_SUCCESS"):
        (folder / name).write_text("x")
    (folder / "loop").symlink_to("loop")
    (folder / "self").symlink_to(".")
    (folder / "b.parquet").mkdir()


def empty_row_groups(folder: Path) -> None:
    with pq.ParquetWriter(folder / "a.parquet", TABLE.schema) as writer:
        for table in (TABLE[:0], TABLE, TABLE[:0]):
            writer.write_table(table)


WORK = {
    "dask": dask,
    "hugging face": hugging_face,
    "partitions": partitions,
    "rubbish": rubbish,
    "empty row groups": empty_row_groups,
    "an empty table beside": lambda f: (put(f / "a.parquet", TABLE[:0]), put(f / "b.parquet")),
    "other columns": lambda f: (
        put(f / "a.parquet"),
        put(f / "b.parquet", TABLE.append_column("x", pa.array(range(ROWS)))),
        put(f / "c.parquet", TABLE.append_column("x", pa.array([{"y": "z"}] * ROWS))),
    ),
    "dictionaries": cast(pa.dictionary(pa.int8(), pa.string())),
    "version 1": lambda f: put(f / "a.parquet", version="1.0", data_page_version="2.0"),
}
REFUSED = {
    "nothing": lambda f: None,
    "hidden": lambda f: put(f / "_delta" / "a.parquet"),
    "zero bytes": lambda f: (f / "a.parquet").touch(),
    "a folder": lambda f: (f / "a.parquet").mkdir(),
    "a pipe": lambda f: os.mkfifo(f / "a.parquet"),
    "a socket": socketed,
    "a link to nothing": lambda f: (f / "a.parquet").symlink_to("b"),
    "a link to itself": lambda f: (f / "a.parquet").symlink_to("a.parquet"),
    "csv": lambda f: pyarrow.csv.write_csv(TABLE, f / "a.parquet"),
    "arrow": lambda f: pyarrow.feather.write_feather(TABLE, f / "a.parquet"),
    "gzip": lambda f: (f / "a.parquet").write_bytes(gzip.compress(b"PAR1" * 9)),
    "binary": cast(pa.binary()),
    "null": cast(pa.null()),
    "no columns": lambda f: put(f / "a.parquet", pa.table({})),
    "Iceberg": log_of("metadata/v1.metadata.json"),
    "Hudi": log_of(".hoodie/hoodie.properties"),
    "Paimon": log_of("snapshot/snapshot-1"),
    "a broken Delta": log_of(f"_delta_log/{0:020}.json"),
    "Text": lambda f: put(f / "a.parquet", TABLE.rename_columns(["Text", "label\nof"])),
}


def test_files_of_others_that_work(place, tmp_path):
    for name, make in WORK.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        make(tmp_path / "in" / name)
        assert find_shards([str(tmp_path / "in" / name)])
    codes = walk(place, tmp_path / "in", tmp_path / "out")
    codes.pop("calibrate")  # may want more rows
    assert set(codes.values()) == {0}


@pytest.mark.parametrize("name", REFUSED)
def test_files_of_others_that_are_refused(name, place, tmp_path):
    (tmp_path / "in").mkdir()
    REFUSED[name](tmp_path / "in")
    assert set(walk(place, tmp_path / "in", tmp_path / "out").values()) == {2}


URLS = {
    "": 2,
    "zip://*.parquet::{}/none.zip": 2,
    "zip://*.parquet::{}/file": 1,
    "reference://x": 2,
    "s3://": 2,
    "ftp://localhost:1/x": 1,
    "{}/a\nb": 2,
    "{}/file": 2,
    "/dev/null": 2,
    "{}/" + "x" * 300: 2,
}


@pytest.mark.parametrize("url", URLS)
def test_places_that_cannot_be_read(url, place, tmp_path):
    (tmp_path / "file").write_text("x")
    codes = walk(place, url.format(tmp_path), tmp_path / "out")
    assert set(codes.values()) == {URLS[url]}


def test_a_store_that_wants_credentials(monkeypatch):
    """Its client says so in an error of its own."""

    class NoCredentialsError(Exception):
        __module__ = "botocore.exceptions"

    def refuse(*_, **__):
        raise NoCredentialsError("Unable to locate\ncredentials")

    monkeypatch.setattr("pipelines.input.shards.list_files", refuse)
    with pytest.raises(InputError, match=r"cannot list 's3://b/x': Unable to locate; expected"):
        find_shards(["s3://b/x"])


NUMBERS = {
    "train": ["--seed=-1", f"--seed={2**64}", f"--batch-size={10**30}", "--epochs=inf",
              "--temperature=1e300", "--learning-rate=inf"],
    "calibrate": ["--seed=-1"],
    "label": ["--price-per-hour=nan", "--price-per-hour=-1", "--slice-timeout=inf", "--run-id=",
              "--output=", "--carry="],
}  # fmt: skip


@pytest.mark.parametrize(("job", "option"), [(j, o) for j, each in NUMBERS.items() for o in each])
def test_values_out_of_bounds(job, option, tmp_path):
    needed = {"train": ["--train=x", "--output=y"], "calibrate": ["--model=x", "--corpus=y"],
              "label": ["--model=x", "--input=y", "--output=z"]}  # fmt: skip
    refused(invoke(job, *needed[job], option), option.partition("=")[0], "expected")


def test_a_column_that_is_carried_twice(place, tmp_path):
    put(tmp_path / "in" / "a.parquet")
    options = ["--carry", "label", "--carry", "label", "--speed", 0.5, "--dry-run"]
    result = invoke("label", "--model", place / "model", "--input", tmp_path / "in", "--output",
                    tmp_path / "out", *options)  # fmt: skip
    assert result.exit_code == 0
