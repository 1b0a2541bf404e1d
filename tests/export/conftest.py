"""An output to export."""

import pytest

from export.output import Output


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(tmp_path)
