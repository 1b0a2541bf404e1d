"""URLs: as they may be shown, and how they are opened; and what importing the library does."""

import errno
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import requests
from botocore.exceptions import NoCredentialsError

from fastbert.errors import FastBertError, InputError
from fastbert.filesystem import open_url, reaching, redacted
from pipelines.input.shards import Shard

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a b/part-?.parquet", "s3://bucket/a b/part-?.parquet"),
        ("s3://KEY:SECRET@bucket/x", "s3://bucket/x"),
        ("https://user:pass@host:8080/x.parquet", "https://host:8080/x.parquet"),
        ("https://user:p@ss@host/x.parquet", "https://host/x.parquet"),
        ("https://host/x.parquet?X-Amz-Signature=SECRET&v=1", "https://host/x.parquet"),
        ("abfs://container@account.dfs.core.windows.net/x", None),
        ("file:///data/dt=2026-11-24/x.parquet", None),
        ("/data/caf\udce9.parquet", "/data/caf\\udce9.parquet"),
    ],
)
def test_secrets_are_not_shown(url, expected):
    assert redacted(url) == (expected or url)


def test_not_in_errors_either():
    with pytest.raises(InputError) as found:
        open_url("nothing://user:SECRET@host/x?sig=SECRET")
    assert "SECRET" not in str(found.value)


def test_requests_to_s3_end_without_an_answer(monkeypatch):
    monkeypatch.setattr(fsspec.config, "conf", {})
    for url in ("s3://bucket/x.parquet", "s3a://bucket/*.parquet"):
        assert open_url(url)[0].config_kwargs["read_timeout"] == 30
    fs = open_url("simplecache::s3://bucket/x.parquet")[0]
    assert fs.fs.config_kwargs["read_timeout"] == 30


def test_what_the_user_has_configured_for_s3_comes_first(monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 7}})
    assert open_url("s3://bucket/x")[0].config_kwargs == {"read_timeout": 7}


def test_shards_are_opened_like_that(monkeypatch):
    opened = []
    monkeypatch.setattr(
        "s3fs.S3FileSystem.open", lambda fs, path, mode: opened.append(fs.config_kwargs)
    )
    Shard("s3://bucket/x.parquet", "x", "").open()
    assert opened[0]["read_timeout"] == 30


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (PermissionError("denied"), InputError, "denied; pass another"),
        (FileNotFoundError("bucket"), InputError, "bucket; pass another"),
        (OSError(errno.EROFS, "read-only"), InputError, "pass another"),
        (OSError("Forbidden: x\nand advice"), InputError, "Forbidden: x; pass another"),
        (NoCredentialsError(), InputError, "pass another"),
        (OSError(errno.EDQUOT, "quota"), FastBertError, "; all is kept: make room"),
        (
            ConnectionError("503"),
            FastBertError,
            r"does not answer \(ConnectionError: 503\); all is",
        ),
        (requests.ConnectionError("gone"), FastBertError, "does not answer"),
        (OSError(errno.ENXIO, "odd"), FastBertError, "odd; all is kept: run again"),
        (KeyError("bug"), KeyError, "bug"),
    ],
)
def test_whose_fault_it_is(error, kind, says):
    with pytest.raises(kind, match=says) as found, reaching("no", "pass another", "all is kept: "):
        raise error
    assert type(found.value) is kind


STATE = """
import importlib, logging, os, pkgutil, sys, warnings
import accelerate, duckdb, fsspec.config, matplotlib.figure, pandas, ray.data, ray.train.torch
import pyiceberg.catalog, pyiceberg.table, s3fs, scipy.stats, torch, transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer

def state():
    return {
        "verbosity": transformers.logging.get_verbosity(),
        "bars": transformers.logging.is_progress_bar_enabled(),
        "warnings": list(warnings.filters),
        "fsspec": repr(fsspec.config.conf),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "environment": dict(os.environ),
        "logging": (logging.getLogger().level, len(logging.getLogger().handlers)),
    }

before = state()
import fastbert, jobs, pipelines
for package in (fastbert, pipelines, jobs):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
after = state()
print({name: (before[name], after[name]) for name in before if before[name] != after[name]})
"""


def test_importing_the_library_changes_nothing_in_the_process():
    done = subprocess.run(
        [sys.executable, "-c", STATE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "{}\n"
