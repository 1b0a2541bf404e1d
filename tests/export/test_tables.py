"""Delta tables that others wrote to, places that hold none, and the command."""

import json
import sys
from dataclasses import replace

import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake

from export.output import ROWS, Output, check
from fastbert.errors import InputError
from jobs.options import command
from pipelines.export import delta
from pipelines.export.rows import OutputChanged
from pipelines.output.storage import Storage


@pytest.fixture
def output(delta) -> Output:
    return delta


def test_compaction_and_restored_versions_do_no_harm(output):
    output.label(("a", 0), ("b", 0))
    output.export()
    output.label(("c", 0), ("a", 0))
    output.export()
    DeltaTable(output.delta).optimize.compact()
    assert output.export()["runs"] == []
    assert output.exported() == output.truth()
    DeltaTable(output.delta).restore(1)
    assert output.export()["runs"] == ["run-2"]
    assert output.exported() == output.truth()


def test_a_file_that_is_not_its_record_s_is_not_exported(output):
    (one, _) = output.label(("a", 0), ("b", 0))
    output.ledger.put(replace(one, rows=ROWS - 1))
    with pytest.raises(OutputChanged, match=r"table/a.* is not what the ledger said"):
        output.export()
    assert output.history() == []


def test_a_slice_at_a_time_is_in_memory(output, monkeypatch):
    """Rows are read when they are written, not before."""
    output.label(*[("a", first) for first in range(0, 70, 7)])
    events = []
    read, write = Storage.read, delta.write_deltalake

    def reading(self, paths):
        events.extend("read" for path in paths if path.startswith("table/"))
        return read(self, paths)

    def writing(table, rows, **named):
        def spied():
            for batch in rows:
                events.append("write")
                yield batch

        write(table, pa.RecordBatchReader.from_batches(rows.schema, spied()), **named)

    monkeypatch.setattr(Storage, "read", reading)
    monkeypatch.setattr(delta, "write_deltalake", writing)
    output.export()
    assert events == ["read", "write"] * 10


def test_a_table_of_another_output_is_left_alone(output, tmp_path):
    output.label(("a", 0))
    output.export()
    other = Output(tmp_path / "other")
    other.label(("a", 0))
    with pytest.raises(InputError, match=r"is of file://.*labels, expected file://.*other/labels"):
        other.export(delta=output.delta)
    write_deltalake(other.delta, pa.table({"x": [1]}))
    with pytest.raises(InputError, match="is of somebody else"):
        other.export()
    assert DeltaTable(other.delta).to_pyarrow_table().to_pylist() == [{"x": 1}]
    check(output, "run-1")


def test_wrong_places(output, tmp_path):
    with pytest.raises(InputError, match="no run has ended at .* expected the --output"):
        output.export()
    output.label(("a", 0), ended=False)
    with pytest.raises(InputError, match="no run has ended"):
        output.export()
    with pytest.raises(InputError, match="lies inside --output"):
        output.export(delta=f"{output.url}/delta")
    output.end("run-1")
    with pytest.raises(InputError, match="cannot open the Delta table nowhere://x"):
        output.export(delta="nowhere://x")


def test_the_command(output):
    output.label(("a", 0))
    result = CliRunner().invoke(
        command("export"), ["--output", output.url, "--delta", output.delta]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["runs"] == ["run-1"]
    result = CliRunner().invoke(
        command("export"), ["--output", output.url + "x", "--delta", output.delta]
    )
    assert result.exit_code == 2
    assert "no run has ended" in result.stderr


def test_without_the_package_the_extra_is_named(output, monkeypatch):
    output.label(("a", 0))
    monkeypatch.delitem(sys.modules, "pipelines.export.delta")
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(InputError, match=r"pip install 'fastbert-ray\[delta\]'"):
        output.export()
