"""The report on a terminal: what comes first, and what is left out."""

import os
import pty
import re
import subprocess
import sys

import pandas as pd
import pytest
from support import ROOT
from support.made_up_history import write_history

from pipelines.reports.cells import summed
from pipelines.reports.job import report
from pipelines.reports.terminal import TABLES
from pipelines.settings import ReportSettings


def test_the_terminal_shows_what_matters_first_within_80_columns(tmp_path, capsys):
    write_history(tmp_path, nights=40, slices=1)
    report(ReportSettings(output=str(tmp_path)))
    printed = capsys.readouterr().err
    assert max(map(len, printed.splitlines())) <= 80
    titled = re.compile(rf"^({'|'.join(TABLES)}) *\n *\n", re.MULTILINE)
    _, *parts = titled.split(printed)
    tables = dict(zip(parts[::2], parts[1::2], strict=True))
    assert next(iter(tables)) == "alarms"
    assert [*tables] == [title for title in TABLES if title in tables]
    assert "night-039" in tables["runs"]
    assert "the last 20 of 40" in tables["runs"]
    assert "night-039" in tables["alarms"]
    assert "billing" in tables["labels"]


@pytest.mark.parametrize(("options", "json_line"), [([], False), (["--json"], True)])
def test_a_terminal_gets_no_json_unless_asked(tmp_path, options, json_line):
    write_history(tmp_path, nights=2, slices=1)
    command = [sys.executable, ROOT / "jobs" / "report.py", "--output", tmp_path, *options]
    terminal, inside = pty.openpty()
    with open(terminal, "rb", 0) as file:
        found = subprocess.run(command, stdout=inside, stderr=subprocess.PIPE, check=True)
        os.write(inside, b"end\n")
        shown = b""
        while not shown.endswith(b"end\r\n"):
            shown += file.read(1 << 16)
    os.close(inside)
    assert [line.startswith(b'{"output"') for line in shown.splitlines()[:-1]] == [True] * json_line
    assert ("rows are labelled" in found.stderr.decode()) is not json_line


def test_labels_beyond_fifteen_are_summed():
    frame = pd.DataFrame({
        "label": [f"c{i}" for i in range(18)], "rows": range(18, 0, -1),
        "percent": [1.0] * 18, "mean_layer": [2.0] * 16 + [5.0, 2.0],
    })  # fmt: skip
    short = summed(frame, "label")
    assert len(short) == 16
    assert short.iloc[-1].to_dict() == {
        "label": "(3 other labels)", "rows": 6, "percent": 3.0, "mean_layer": 3.0,
    }  # fmt: skip
    assert short.dtypes.to_dict() == frame.dtypes.to_dict()
    assert summed(frame[:16], "label").equals(frame[:16])  # one more is no sum
