"""An output to export, to a table of each format."""

import pytest

from export.output import IcebergOutput, Output


@pytest.fixture
def delta(tmp_path) -> Output:
    return Output(tmp_path)


@pytest.fixture
def iceberg(tmp_path, monkeypatch) -> IcebergOutput:
    output = IcebergOutput(tmp_path)
    # pyiceberg reads its configuration once, when it is imported.
    monkeypatch.setattr("pipelines.export.iceberg.load_catalog", lambda name: output.new_catalog())
    return output


@pytest.fixture(params=["delta", "iceberg"])
def output(request) -> Output:
    return request.getfixturevalue(request.param)
