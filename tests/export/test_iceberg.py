"""Iceberg tables: that others wrote to, where rows are replaced; catalogs, and the command."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyiceberg.table import Transaction
from support import ROOT

from export.killed import Killed, failing
from export.output import IcebergOutput, check
from fastbert.errors import FastBertError, InputError
from jobs.options import command


@pytest.fixture
def output(iceberg) -> IcebergOutput:
    return iceberg


def compact(output: IcebergOutput) -> None:
    """All rows in one file, as engines rewrite them."""
    table = output.table()
    table.overwrite(table.scan().to_arrow())


def test_compaction_and_snapshots_that_are_set_back_do_no_harm(output):
    output.label(("a", 0), ("b", 0))
    output.export()
    first = output.table().current_snapshot().snapshot_id
    output.label(("c", 0), ("a", 0))
    output.export()
    compact(output)
    assert output.export()["runs"] == []
    assert output.exported() == output.truth()
    output.label(("b", 0))  # of which the file holds other slices, too
    assert output.export()["runs"] == ["run-3"]
    assert output.exported() == output.truth()
    output.table().manage_snapshots().set_current_snapshot(first).commit()
    assert output.export()["runs"] == ["run-2", "run-3"]
    assert output.exported() == output.truth()


@pytest.mark.parametrize("name", ["delete", "append", "commit_transaction"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_replacement_that_was_killed_is_done_by_the_next(
    output, monkeypatch, name, after, compacted
):
    """A reader sees the old rows or the new ones, never none."""
    output.label(("a", 0), ("b", 0))
    output.export()
    if compacted:
        compact(output)
    before = output.exported()
    output.label(("a", 0), ("c", 0))
    name = "overwrite" if name == "append" else name
    with monkeypatch.context() as patch:
        patch.setattr(Transaction, name, failing(getattr(Transaction, name), 1, after))
        with pytest.raises(Killed):
            output.export()
    whole = after and name == "commit_transaction"
    assert output.exported() == (output.truth() if whole else before)
    output.export()
    assert output.exported() == output.truth()
    assert output.history()[-1] == "run-2"


def test_a_table_of_another_output_is_left_alone(output):
    output.label(("a", 0))
    output.catalog.create_namespace("corpus")
    table = output.catalog.create_table("corpus.labels", schema=pa.schema([("x", pa.int64())]))
    with pytest.raises(InputError, match="is of somebody else, expected file://.*labels"):
        output.export()
    table.transaction().set_properties({"fastbert.output": "s3://other"}).commit_transaction()
    with pytest.raises(InputError, match="is of s3://other, expected file://.*labels; export to"):
        output.export()
    assert output.table().current_snapshot() is None


@pytest.mark.parametrize("name", ["labels", "lake.labels", "lake..labels", "s3://lake/labels"])
def test_names_that_are_none(output, name):
    output.label(("a", 0))
    with pytest.raises(InputError, match=f"--iceberg is '{name}', expected CATALOG.NAMESPACE"):
        output.export(iceberg=name)


def test_one_table_at_a_time(output):
    for targets in ({"iceberg": None}, {"delta": "x"}):
        with pytest.raises(InputError, match="a table to bring up to date: --delta or --iceberg"):
            output.export(**targets)


def test_a_catalog_that_is_not_reached(output, tmp_path, monkeypatch):
    output.label(("a", 0))
    output.settings["uri"] = f"sqlite:///{tmp_path}/nowhere/catalog.db"
    with pytest.raises(FastBertError, match="lake.corpus.labels cannot be re.*unable to open"):
        output.export()


def test_the_command_finds_the_catalog_in_the_environment(output):
    output.label(("a", 0))
    values = {f"PYICEBERG_CATALOG__LAKE__{k.upper()}": v for k, v in output.settings.items()}
    words = ["export", "--output", output.url, "--iceberg"]

    def run(name: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "jobs", *words, name],
            cwd=ROOT, env=os.environ | values, capture_output=True, text=True,
        )  # fmt: skip

    found = run("lake.corpus.labels")
    assert found.returncode == 0, found.stderr
    summary = json.loads(found.stdout.splitlines()[-1])
    assert (summary["runs"], summary["iceberg"]) == (["run-1"], "lake.corpus.labels")
    check(output, "run-1")
    unknown = run("pond.corpus.labels")
    assert unknown.returncode == 2
    assert "look at the catalog 'pond' in pyiceberg's configuration" in unknown.stderr


def test_without_the_package_the_extra_is_named(output, monkeypatch):
    output.label(("a", 0))
    monkeypatch.delitem(sys.modules, "pipelines.export.iceberg")
    monkeypatch.setitem(sys.modules, "pyiceberg", None)
    result = CliRunner().invoke(
        command("export"), ["--output", output.url, "--iceberg", "lake.corpus.labels"]
    )
    assert result.exit_code == 2
    assert "pip install 'fastbert-ray[iceberg]'" in result.stderr
