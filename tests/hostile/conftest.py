"""The labelling job in this process, without Ray."""

from typing import Any

import pytest
from support.stages import in_process

import pipelines.labelling.job
import pipelines.running.ray_data
from pipelines.labelling.job import label
from pipelines.output.lock import RunLock
from pipelines.running.ray_data import Share
from pipelines.settings import LabelSettings


@pytest.fixture
def job(tmp_path, checkpoint, monkeypatch):
    """Labels `in` to `out`; `meanwhile` happens between plan and read."""
    share = Share(0, 1, 1, 0.5)
    monkeypatch.setattr(pipelines.running.ray_data, "run_stages", in_process)
    monkeypatch.setattr(pipelines.labelling.job, "RunLock", lambda s, r: RunLock(s, r, settle=0))

    def run(meanwhile=None, inputs=("in",), **settings) -> dict[str, Any]:
        def share_of_cluster(_):
            if meanwhile:
                meanwhile()
            return share

        monkeypatch.setattr(pipelines.running.ray_data, "share_of_cluster", share_of_cluster)
        defaults = dict(speed=0.5, max_bad_rows=1.0, slice_rows=1000)
        return label(
            LabelSettings(
                input=tuple(str(tmp_path / name) for name in inputs),
                output=str(tmp_path / "out"),
                model=checkpoint,
                **defaults | settings,
            )
        )

    return run
