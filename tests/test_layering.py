"""Imports go one way: jobs -> pipelines -> fastbert, and only the job's wiring knows Ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Who may import what, beside the standard library and fastbert itself.
HEAVY = {
    "ray": {
        "pipelines/running/ray_data.py",
        "pipelines/running/cluster.py",
        "pipelines/running/metrics.py",
        "pipelines/checkpoints/train.py",
    },
    "duckdb": {"pipelines/reports/analytics.py"},
    "matplotlib": {"pipelines/reports/figures.py"},
    "pandas": {
        "pipelines/reports/analytics.py",
        "pipelines/reports/terminal.py",
        "pipelines/reports/html.py",
        "pipelines/reports/figures.py",
    },
    "deltalake": {"pipelines/export/delta.py"},
    "nanotoken": {"fastbert/inference/tokenizer.py"},
    "click": {"jobs/options.py", "jobs/__main__.py"},
}
FILES = [p for top in ("fastbert", "pipelines", "jobs") for p in sorted((ROOT / top).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names of all modules imported anywhere in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    top = path.relative_to(ROOT).parts[0]
    above = {"fastbert": {"pipelines", "jobs"}, "pipelines": {"jobs"}, "jobs": set()}[top]
    found = imported(path)
    assert not found & above
    for module, owners in HEAVY.items():
        if module in found:
            assert str(path.relative_to(ROOT)) in owners, f"{module} is not for this file"


def test_control_the_scan_sees_imports_inside_functions(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from ray.data import Dataset\n    import duckdb as d\n")
    assert imported(file) == {"ray", "duckdb"}


def test_reports_and_commits_do_without_torch():
    """Importing it takes longer than a report, and every worker that commits would hold it."""
    light = ["jobs.__main__", "pipelines.reports.analytics",
             "pipelines.reports.terminal", "pipelines.reports.html", "pipelines.export.job",
             "pipelines.running.ray_data"]  # fmt: skip
    script = (
        f"import sys, {', '.join(light)}; print({{'torch', 'transformers'}} & {{*sys.modules}})"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
