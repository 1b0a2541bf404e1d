"""Large files of text are scanned by processes, each on a core of its own."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from support import ROOT
from support.shards import die, random_texts

from fastbert.errors import FastBertError
from pipelines.input.columns import InputColumns
from pipelines.input.scans import Scans
from pipelines.input.shards import find_shards
from pipelines.output.storage import Storage

DRIVER = """
import sys
from pipelines.input import scans, shards
from pipelines.input.columns import InputColumns
from support.shards import linger

if __name__ == "__main__":
    scans._LARGE, scans._new = 0, linger
    list(scans.Scans().each(shards.find_shards([sys.argv[1]]), InputColumns()))
"""


@pytest.fixture
def folder(tmp_path):
    """Files of text, one of which cannot be labelled."""
    place = tmp_path / "in"
    place.mkdir()
    for number in range(3):
        texts = random_texts(20 + number, seed=number)
        lines = [f'{{"text": "{text}", "id": {k}}}' for k, text in enumerate(texts)]
        (place / f"{number}.jsonl").write_text("\n".join(lines))
        (place / f"{number}.csv").write_text("\n".join(["text", *texts]))
    (place / "array.jsonl").write_text("[]")
    return place


def test_processes_find_what_threads_find(folder, monkeypatch):
    shards, columns = find_shards([str(folder)]), InputColumns()
    here, apart = Scans(), Scans()
    expected = list(here.each(shards, columns))
    monkeypatch.setattr("pipelines.input.scans._LARGE", 0)
    # What is changed in this process, others do not see.
    monkeypatch.setattr("pipelines.input.scans.scan", lambda *_: pytest.fail("not in a process"))
    assert list(apart.each(shards, columns)) == expected
    assert sum(isinstance(found, str) for found in expected) == 1
    assert apart.fields() == here.fields()


def test_files_are_counted_that_were_not_before(folder, tmp_path, caplog):
    caplog.set_level("INFO")
    shards, storage = find_shards([str(folder)]), Storage(str(tmp_path / "out"))
    for _ in range(2):
        list(Scans(storage, keep=True).each(shards, InputColumns()))
    counts = [record.args for record in caplog.records]
    assert counts == [(7,), (1,)]  # the file that cannot be labelled is read again


@pytest.mark.parametrize(("size", "apart"), [(None, 0), (99, 0), (100, 1), (101, 1)])
def test_small_files_are_scanned_here(folder, monkeypatch, size, apart):
    shards = [replace(shard, size=size) for shard in find_shards([f"{folder}/0.jsonl"])]
    monkeypatch.setattr("pipelines.input.scans._LARGE", 100)
    monkeypatch.setattr("pipelines.input.scans._apart", lambda *_: apart_scan)
    apart_scan = replace(Scans().of(*shards, InputColumns()), rows=0)
    (found,) = Scans().each(shards, InputColumns())
    assert (found is apart_scan) == apart


def test_sizes_are_those_of_the_files(folder):
    assert [shard.size for shard in find_shards([str(folder)])] == [
        path.stat().st_size for path in sorted(folder.iterdir())
    ]


def test_a_process_that_dies_ends_the_scan_with_its_reason(folder, monkeypatch):
    monkeypatch.setattr("pipelines.input.scans._LARGE", 0)
    monkeypatch.setattr("pipelines.input.scans._new", die)
    with pytest.raises(FastBertError, match="a process died that counts the rows of .*more memory"):
        list(Scans().each(find_shards([str(folder)]), InputColumns()))


def test_processes_end_with_a_driver_that_is_killed(folder, tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(folder)]
    found = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    driver = subprocess.Popen(command, env=found)
    children, deadline = [], time.monotonic() + 60
    while not children and time.monotonic() < deadline:
        time.sleep(0.1)
        children = [
            child
            for child in psutil.Process(driver.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
    assert children
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
