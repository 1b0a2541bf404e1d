"""What is installed is what is in the repository: the wheel, in an environment of its own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.shards import random_texts, write_shard

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fastbert", "pipelines", "jobs")


def run(*command: object, cwd: Path) -> str:
    """stdout of a command that neither this repository nor this environment's settings reach."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("wheel")
    left = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    source = shutil.copytree(ROOT, root / "source", ignore=left)
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    run(sys.executable, "-m", "pip", "wheel", *offline, "-w", root, source, cwd=root)
    (found,) = root.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bin(wheel, tmp_path_factory) -> Path:
    """Of an environment with the wheel; it finds what that needs in this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    install = ["-m", "pip", "--python", folder / "bin" / "python", "install", "--no-deps"]
    run(sys.executable, *install, "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but the .pth files there, of editable projects, are not.
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def test_it_holds_all_rooms_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for kind in ("*.py", "*.pyi", "*.j2")
        for path in (ROOT / package).rglob(kind)
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {Path(name).suffix for name in expected} == {".py", ".pyi", ".j2"}
    (entries,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
    assert "fastbert = jobs.__main__:main" in zipfile.ZipFile(wheel).read(entries).decode()


def test_it_labels(bin, checkpoint, tmp_path):
    places = "import fastbert, jobs, pipelines; print(fastbert.__file__, jobs.__file__)"
    for place in run(bin / "python", "-c", places, cwd=tmp_path).split():
        assert place.startswith(str(bin.parent / "lib")), "that is not the wheel's"
    assert " label " in run(bin / "fastbert", "--help", cwd=tmp_path)
    shard = write_shard(tmp_path / "in" / "a.parquet", random_texts(9))
    options = ["--output", "out", "--model", checkpoint, "--speed", 0.5]
    said = run(bin / "fastbert", "label", "--input", shard, *options, cwd=tmp_path)
    assert json.loads(said.splitlines()[-1])["rows"] == 9
    labels = pq.read_table(tmp_path / "out" / "table" / "a.000000000000.parquet")
    assert labels["label"].null_count == 0
    assert labels.schema.metadata[b"fastbert.checkpoint"]
    page = tmp_path / "report.html"
    run(bin / "fastbert", "report", "--output", "out", "--html", page, cwd=tmp_path)
    assert "<html" in page.read_text()
