"""Files stay short enough to be read, and tests stand alone."""

import re
from pathlib import Path

import pytest
from support import ROOT

SOURCES = ("fastbert", "pipelines", "jobs")
LONGEST = dict.fromkeys(SOURCES, 350) | dict.fromkeys(("tests", "benchmarks"), 500)
#: Lines of all sources together: whatever is added shows here, or is paid for by what goes.
MOST = 24_285


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("folder", LONGEST)
def test_no_file_is_too_long(folder):
    found = {str(path): lines(path) for path in (ROOT / folder).rglob("*.py")}
    assert found
    assert {path: n for path, n in found.items() if n > LONGEST[folder]} == {}


def test_the_sources_are_few_lines():
    kinds = ("*.py", "*.pyi", "*.j2")
    found = [path for top in SOURCES for kind in kinds for path in (ROOT / top).rglob(kind)]
    assert sum(map(lines, found)) <= MOST


FORBIDDEN = re.compile(r"^\s*(?:from|import)\s+(?:\w+\.)*(?:test_\w+|conftest)\b", re.MULTILINE)


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_no_file_imports_a_test_file(folder):
    """What several need is in tests/support."""
    for path in (ROOT / folder).rglob("*.py"):
        assert not FORBIDDEN.search(path.read_text()), path


@pytest.mark.parametrize(
    "line", ["import test_a", "  from conftest import b", "from x.test_a import b"]
)
def test_control_an_import_of_a_test_file_is_seen(line):
    assert FORBIDDEN.search(f"import os\n{line}\n")
    assert not FORBIDDEN.search("from support.models import test_a\nfrom pytest import mark")
