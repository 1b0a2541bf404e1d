"""A labelled corpus to filter."""

import shutil
from pathlib import Path

import pytest
from support.labelling import settings
from support.stages import InProcess

from filter.corpus import write_corpus
from pipelines.labelling.job import label


@pytest.fixture(scope="module")
def made(tmp_path_factory, checkpoint) -> Path:
    root = tmp_path_factory.mktemp("o'hara")
    write_corpus(root / "in")
    done = label(settings(root / "in", root / "out", checkpoint, speed=0.5), InProcess())
    assert done["exit_code"] == 0
    assert done["error_rows"] > 9
    return root


@pytest.fixture
def world(made, tmp_path) -> Path:
    """A copy whose files are the same version."""
    shutil.copytree(made, tmp_path / "o", copy_function=shutil.copy2)
    return tmp_path / "o"
