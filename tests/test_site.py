"""The documentation as a site: every page is listed, every link and anchor leads somewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT


def build(root: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture
def copied(tmp_path):
    """All that the site is built from."""
    shutil.copytree(ROOT / "docs", tmp_path / "root" / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path / "root")
    (tmp_path / "root" / "fastbert").symlink_to(ROOT / "fastbert")
    (tmp_path / "root" / "pipelines").symlink_to(ROOT / "pipelines")
    return tmp_path / "root"


def test_it_builds_without_a_warning(tmp_path):
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stderr.splitlines()} == {"INFO"}
    for page in (ROOT / "docs").glob("*.md"):
        folder = tmp_path / "site" / ("." if page.stem == "index" else page.stem)
        assert "<h1" in (folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("does not contain an anchor '#nowhere'", "[x](terms.md#nowhere)"),
        ("'nowhere.md', but the target is not found", "[x](nowhere.md)"),
        ("fastbert.library.nothing could not be found", "::: fastbert.library.nothing"),
    ],
)
def test_control_what_leads_nowhere_is_an_error(copied, tmp_path, said, line):
    with (copied / "docs" / "start.md").open("a") as page:
        page.write(f"\n{line}\n")
    done = build(copied, tmp_path / "site")
    assert done.returncode == 1
    assert said in done.stderr


def test_control_a_page_that_is_not_listed_is_an_error(copied, tmp_path):
    (copied / "docs" / "new.md").write_text("# New\n")
    done = build(copied, tmp_path / "site")
    assert done.returncode == 1
    assert "new.md" in done.stderr
