"""The labelling job in this process, without Ray."""

from typing import Any

import pytest
from support.stages import InProcess

import pipelines.labelling.job
from pipelines.labelling.job import label
from pipelines.output.lock import RunLock
from pipelines.settings import LabelSettings


@pytest.fixture
def job(tmp_path, checkpoint, monkeypatch):
    """Labels `in` to `out`; `meanwhile` happens between plan and read."""
    monkeypatch.setattr(pipelines.labelling.job, "RunLock", lambda s, r: RunLock(s, r, settle=0))

    def run(meanwhile=None, inputs=("in",), **settings) -> dict[str, Any]:
        defaults = dict(speed=0.5, max_bad_rows=1.0, slice_rows=1000, precision="fp32")
        asked = LabelSettings(
            input=tuple(str(tmp_path / name) for name in inputs),
            output=str(tmp_path / "out"),
            model=checkpoint,
            **defaults | settings,
        )
        return label(asked, InProcess(meanwhile))

    return run
