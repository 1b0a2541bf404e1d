"""The labelling job in this process, without Ray: with a checkpoint of one label, and with one that
answers a question of each kind."""

from typing import Any

import pytest
from support.models import save_checkpoint_of_questions
from support.stages import InProcess

import pipelines.labelling.job
from fastbert.exits.question import Kind
from pipelines.labelling.job import label
from pipelines.output.lock import RunLock
from pipelines.settings import LabelSettings


@pytest.fixture(scope="session")
def several(tmp_path_factory) -> tuple[str, dict[str, Kind]]:
    """A checkpoint that answers several questions, and their kinds."""
    folder = tmp_path_factory.mktemp("several")
    return str(folder), save_checkpoint_of_questions(folder)


@pytest.fixture(params=["one label", "every kind"])
def job(request, tmp_path, checkpoint, several, monkeypatch):
    """Labels `in` to `out`; `meanwhile` happens between plan and read. `job.kinds` are those of the
    questions."""
    monkeypatch.setattr(pipelines.labelling.job, "RunLock", lambda s, r: RunLock(s, r, settle=0))
    model, kinds, speed = checkpoint, {"": "single-label"}, 0.5
    if request.param == "every kind":
        (model, kinds), speed = several, None

    def run(meanwhile=None, inputs=("in",), **settings) -> dict[str, Any]:
        defaults = dict(speed=speed, max_bad_rows=1.0, slice_rows=1000, precision="fp32")
        asked = LabelSettings(
            input=tuple(str(tmp_path / name) for name in inputs),
            output=str(tmp_path / "out"),
            model=model,
            **defaults | settings,
        )
        return label(asked, InProcess(meanwhile))

    run.kinds = kinds
    return run
