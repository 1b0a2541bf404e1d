"""Imports go one way through the packages, and only the job's wiring imports Ray."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from support import ROOT

import fastbert

#: Rooms, from the lowest to the highest; those of a line are side by side. A room may import what
#: stands above it here or beside it, as long as there is no circle of files.
ORDER = [
    "fastbert.errors fastbert.filesystem fastbert.cache fastbert.writable",
    "fastbert.checkpoint fastbert.tokenizer",
    "fastbert.packed",
    "fastbert.exits",
    "fastbert.tasks",
    "fastbert.encoders",
    "fastbert.configuration",
    "fastbert.outline",
    "fastbert.model",
    "fastbert.weights fastbert.official",
    "fastbert.inference",
    "fastbert.training",
    "fastbert.calibration",
    "fastbert.library",
    "fastbert",  # its own __init__, which imports nothing before it is asked for: see LAZY
    "pipelines",
    "pipelines.bounds pipelines.children pipelines.machine",
    "pipelines.settings",
    "pipelines.output",
    "pipelines.input",
    "pipelines.labelling",
    "pipelines.running",
    "pipelines.checkpoints pipelines.export pipelines.filter pipelines.reports",
    "jobs",
]
#: Names of `fastbert` that are of a higher room, for whoever says `import fastbert` and no more:
#: the one way in which an import goes up, and only when the name is asked for.
LAZY = {"open": "pipelines.reports.analytics"}
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms.split()}
#: Who may import what, beside the standard library and fastbert itself.
HEAVY = {
    "ray": {
        "pipelines/running/ray_data.py",
        "pipelines/running/cluster.py",
        "pipelines/checkpoints/workers.py",
    },
    "duckdb": {
        "pipelines/export/iceberg.py",
        "pipelines/filter/condition.py",
        "pipelines/output/sets.py",
        "pipelines/reports/analytics.py",
        "pipelines/reports/folders.py",
    },
    "matplotlib": {"pipelines/reports/figures.py"},
    "pandas": {
        "pipelines/filter/job.py",
        "pipelines/reports/accuracy.py",
        "pipelines/reports/analytics.py",
        "pipelines/reports/cells.py",
        "pipelines/reports/check.py",
        "pipelines/reports/job.py",
        "pipelines/reports/html.py",
        "pipelines/reports/figures.py",
        "pipelines/reports/lead.py",
        "pipelines/reports/recipes.py",
        "pipelines/reports/terminal.py",
        "pipelines/reports/uncertain.py",
    },
    "datasets": {"pipelines/reports/hugging_face.py"},
    "pyiceberg": {"pipelines/export/iceberg.py"},
    "deltalake": {"pipelines/export/delta.py", "pipelines/input/delta.py"},
    "nanotoken": {"fastbert/inference/tokenizer.py"},
    "click": {"jobs/options.py", "jobs/__main__.py"},
}
TOPS = ("fastbert", "pipelines", "jobs")
Edges = dict[str, set[str]]


def modules_of(root: Path) -> dict[str, Path]:
    """The file of each module: of a package, its `__init__`."""
    paths = [path.relative_to(root) for top in TOPS for path in sorted((root / top).rglob("*.py"))]
    return {".".join(p.with_suffix("").parts).removesuffix(".__init__"): root / p for p in paths}


def runs(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, except what stands under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from runs(node)


def imported(path: Path) -> set[str]:
    """What is imported anywhere in the file: of `from a import b`, `a.b`, module or not."""
    names = set()
    for node in runs(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def edges_of(root: Path) -> Edges:
    """Which modules of ours each module imports."""
    modules = modules_of(root)

    def module(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    return {
        name: {found for each in imported(path) if (found := module(each))} - {name}
        for name, path in modules.items()
    }


def room(module: str) -> str:
    """The first two parts of its name; all of jobs/ is one package."""
    parts = module.split(".")
    name = parts[0] if parts[0] == "jobs" else ".".join(parts[:2])
    assert name in LEVEL, f"{module} is in no package: add {name} to ORDER"
    return name


def upwards(edges: Edges) -> list[str]:
    """Imports of a higher package."""
    return [
        f"{module} -> {target}"
        for module, targets in edges.items()
        for target in sorted(targets)
        if LEVEL[room(target)] > LEVEL[room(module)]
    ]


def circle(edges: Edges) -> list[str]:
    """Modules that import each other in a circle, if any."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_room_imports_a_higher_one():
    assert upwards(edges_of(ROOT)) == []


def test_of_the_librarys_own_names_one_is_of_a_higher_room():
    higher = {name: module for name, module in fastbert.MODULES.items() if "fastbert" not in module}
    assert higher == LAZY


def test_type_checkers_and_imports_find_the_same_names():
    tree = ast.parse((ROOT / "fastbert" / "__init__.pyi").read_text())
    found = {
        alias.name: "fastbert." * node.level + node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert found == fastbert.MODULES
    for name, module in found.items():
        assert getattr(fastbert, name) is getattr(import_module(module), name)


def test_no_modules_import_each_other_in_a_circle():
    assert circle(edges_of(ROOT)) == []


@pytest.mark.parametrize("module", modules_of(ROOT))
def test_heavy_packages_stay_where_they_belong(module):
    path = modules_of(ROOT)[module]
    found = {name.split(".")[0] for name in imported(path)}
    for heavy, owners in HEAVY.items():
        if heavy in found:
            assert str(path.relative_to(ROOT)) in owners, f"{heavy} is not for this file"


def private_parts(path: Path) -> set[str]:
    """Names with a leading underscore that the file imports from others' packages, or takes of
    Ray, whose releases change them."""
    tree, own = ast.parse(path.read_text()), re.compile(rf"({'|'.join(TOPS)})\b")
    found = {name for name in imported(path) if not own.match(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("ray."):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ray."):
            found |= {f"ray.{keyword.arg}" for keyword in node.keywords}
    return {name for name in found if re.search(r"(^|\.)_(?!_)", name)}


@pytest.mark.parametrize("module", modules_of(ROOT))
def test_others_keep_their_private_parts(module):
    assert private_parts(modules_of(ROOT)[module]) == set()


@pytest.mark.parametrize(
    "line",
    [
        "import ray._private",
        "from ray._raylet import Config",
        "def f():\n    from ray.data import _internal",
        "ray._private.worker._global_node",
        "ray.init(_temp_dir='/x')",
    ],
)
def test_control_a_private_part_is_seen(line, tmp_path):
    (tmp_path / "a.py").write_text(line)
    assert private_parts(tmp_path / "a.py")
    (tmp_path / "b.py").write_text("from __future__ import c\nfrom jobs import _d\nself._e(_f=1)")
    assert not private_parts(tmp_path / "b.py")


@pytest.fixture
def tree(tmp_path):
    """Writes files of a small project, and finds its imports."""

    def write(**texts: str) -> Edges:
        for name, text in texts.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return edges_of(tmp_path)

    return write


@pytest.mark.parametrize(
    "line",
    [
        "import fastbert.model",
        "from fastbert import model",
        "from fastbert.model import FastBert",
        "def f():\n    from fastbert import model",
        "try:\n    import fastbert.model as m\nexcept ImportError:\n    pass",
    ],
)
def test_control_an_import_of_a_higher_room_is_seen(tree, line):
    edges = tree(fastbert__packed__linear=line, fastbert__model="", fastbert__errors="")
    assert upwards(edges) == ["fastbert.packed.linear -> fastbert.model"]


def test_control_what_is_allowed_is_not_seen(tree):
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import fastbert.model"
    down = "from fastbert.packed.linear import linear\nimport torch"
    edges = tree(fastbert__packed__linear=types, fastbert__model=down, jobs__train=down)
    assert edges["fastbert.model"] == {"fastbert.packed.linear"}
    assert upwards(edges) == []
    assert circle(edges) == []


def test_control_a_circle_inside_a_room_is_seen(tree):
    edges = tree(
        fastbert__packed__a="def f():\n    import fastbert.packed.b",
        fastbert__packed__b="from fastbert.packed import a",
    )
    assert upwards(edges) == []
    assert len(circle(edges)) == 3


def test_control_a_new_room_needs_its_place(tree):
    with pytest.raises(AssertionError, match=r"add fastbert\.attic to ORDER"):
        upwards(tree(fastbert__attic__box="import fastbert.model", fastbert__model=""))


def test_reports_and_commits_do_without_torch():
    """Importing it takes longer than a report, and every worker that commits would hold it."""
    light = ["jobs.__main__", "pipelines.reports.analytics",
             "pipelines.reports.job", "pipelines.reports.html", "pipelines.export.job",
             "pipelines.filter.job",
             "pipelines.running.ray_data", "pipelines.running.executor",
             "pipelines.running.local"]  # fmt: skip
    script = (
        f"import sys, {', '.join(light)}; print({{'torch', 'transformers'}} & {{*sys.modules}})"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
