"""Documentation is held to the code: files, commands and options it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.made_up_history import write_history

from jobs.__main__ import main
from pipelines.reports import analytics

ROOT = Path(__file__).resolve().parents[1]
DOCS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("path", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_exist(path):
    text = path.read_text().replace("\\\n", " ")
    commands = re.findall(r"(?:python jobs/|fastbert )(\w+)(?:\.py)?((?: [^\n`]*)?)", text)
    commands = [(job, arguments) for job, arguments in commands if job in main.commands]
    if path == ROOT / "docs" / "start.md":
        assert {job for job, _ in commands} == set(main.commands)
    for job, arguments in commands:
        known = {name for p in main.commands[job].params for name in (*p.opts, *p.secondary_opts)}
        for option in re.findall(r"(?<=\s)--[a-z-]+", arguments):
            assert option in known, f"{path.name}: {job} has no {option}"


def tree_of_the_readme() -> set[Path]:
    """Folders and files that README's tree names."""
    text = (ROOT / "README.md").read_text().split("## What is where")[1].split("```")[1]
    found, folder = set(), ROOT
    for inside, name in re.findall(r"^( *)(\S+)", text, re.MULTILINE):
        path = folder / name if inside else ROOT / name
        folder = folder if inside else path
        found.add(path)
    return found


def test_the_tree_of_the_readme_has_every_room_and_nothing_else():
    tree = tree_of_the_readme()
    for path in tree:
        assert path.exists(), f"README's tree names {path}, which does not exist"
    for top in ("fastbert", "pipelines", "tests", "benchmarks"):
        rooms = {path for path in (ROOT / top).iterdir() if any(path.glob("*.*"))}
        if top in ("fastbert", "pipelines"):
            rooms |= set((ROOT / top).glob("*.py"))
        missing = {path for path in rooms - tree if not path.name.startswith(("__", "."))}
        assert not missing, "not in README's tree"


def test_the_queries_of_the_documentation_run(tmp_path):
    write_history(tmp_path, nights=4, slices=2)
    found = analytics.open(str(tmp_path))
    row = "select 'a' as label, 'b' as audit_label, null as error, 0.5::float as score, 1 as flops"
    found.query(f"create view rows as {row}")  # the history's own table is empty files
    text = (ROOT / "docs" / "analytics.md").read_text()
    queries = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert len(queries) >= 8
    for sql in queries:
        assert len(found.query(sql)), sql


@pytest.mark.parametrize("view", ["exits", "slices", "runs"])
def test_the_columns_of_the_views_are_documented(view, tmp_path):
    write_history(tmp_path, nights=1, slices=1)
    columns = set(analytics.open(str(tmp_path)).query(f"from {view}").columns)
    text = (ROOT / "docs" / "analytics.md").read_text()
    section = re.split(r"^##+ ", text.split(f"### `{view}`\n")[1], flags=re.MULTILINE)[0]
    named = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)  # the first cell of each row
    documented = re.findall(r"`(\w+)`", " ".join(named))
    assert sorted(documented) == sorted(columns)


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCS:
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", path.read_text(), re.MULTILINE))
        assert named <= targets


def test_links_lead_somewhere():
    for path in DOCS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_ci_calls_what_the_readme_names():
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_page_of_commands_is_generated_from_them():
    check = [sys.executable, str(ROOT / "docs" / "commands.py"), "--check"]
    result = subprocess.run(check, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_results_are_generated_from_the_committed_json():
    check = [sys.executable, "-m", "benchmarks.pages.tables", "--check"]
    result = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
