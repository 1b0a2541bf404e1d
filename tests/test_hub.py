"""Models and data sets of the Hugging Face hub, from a stand-in on loopback."""

import json
import shutil
import subprocess
import sys

import pytest
from support import ROOT
from support.hub import Hub
from support.labelling import table_of
from support.models import save_tiny_models
from support.shards import random_texts, write_shard

pytestmark = pytest.mark.integration


@pytest.fixture
def hub(tmp_path):
    (made := tmp_path / "made").mkdir()
    save_tiny_models(made)
    shutil.copytree(
        tmp_path / "made" / "teacher", tmp_path / "hub" / "models" / "org" / "classifier"
    )
    shutil.copytree(tmp_path / "made" / "model", tmp_path / "hub" / "models" / "org" / "exits")
    texts = random_texts(30, seed=1)
    corpus = tmp_path / "hub" / "datasets" / "org" / "corpus" / "data"
    write_shard(corpus / "a.parquet", texts[:20])
    lines = (json.dumps({"text": text, "id": k}) + "\n" for k, text in enumerate(texts[20:]))
    (corpus / "b.jsonl").write_text("".join(lines))
    found = Hub(tmp_path / "hub")
    yield found
    found.close()


def run(hub: Hub, folder, *arguments) -> subprocess.CompletedProcess[str]:
    here = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "PATH": "/usr/bin:/bin",
            "HOME": str(folder), "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    command = [sys.executable, "-m", "jobs", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=here, capture_output=True, text=True, timeout=300)


MODELS = {"org/exits": "--speed=0.5", "org/classifier": "--make-exits=never"}


@pytest.mark.parametrize("model", MODELS)
def test_a_data_set_is_labelled_with_a_model(hub, tmp_path, model):
    """Both by their names on the hub, and again with nothing to do."""
    command = ("label", "--model", model, "--input", "hf://datasets/org/corpus/data", MODELS[model],
               "--output", tmp_path / "out", "--cpus-per-replica", 1)  # fmt: skip
    first = run(hub, tmp_path, *command)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout.splitlines()[-1])["rows"] == 30
    assert table_of(tmp_path / "out")["label"].null_count == 0
    again = run(hub, tmp_path, *command)
    assert json.loads(again.stdout.splitlines()[-1])["slices_up_to_date"] == 2
    names = [line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line]
    assert "model.safetensors" in names


def test_what_is_not_on_the_hub(hub, tmp_path):
    common = ("--input", "hf://datasets/org/corpus", "--output", tmp_path / "out")
    none = run(hub, tmp_path, "label", "--model", "org/none", *common)
    assert none.returncode == 2
    assert "no checkpoint 'org/none': it is neither a local folder nor" in none.stderr
    out = run(hub, tmp_path, "label", "--model", "org/exits", "--input", "x", "--output", "hf://x")
    assert "upload its table/ afterwards with hf upload" in out.stderr
    common = ("--input", "hf://datasets/org/none", "--output", tmp_path / "out")
    none = run(hub, tmp_path, "label", "--model", "org/exits", "--speed", 0.5, *common)
    assert none.returncode == 2, none.stderr
    assert len(none.stderr.splitlines()) == 1
