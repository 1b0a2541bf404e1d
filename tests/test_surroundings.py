"""What shells, cron, services and full disks make of a process: one line and an exit code."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.data import DataContext
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from support import ROOT
from support.jobs import invoke, refused
from support.labelling import settings
from support.shards import random_texts, write_shard

from fastbert.errors import FastBertError, InputError
from jobs.streams import print_summary
from pipelines.labelling.job import label
from pipelines.output.lock import LOCK
from pipelines.running import cluster
from pipelines.running.ray_executor import RayExecutor

STANDSTILL = "execution_no_progress_timeout_s"  # since Ray 2.53 or later
SUMMARY = {"labels": {"负面": 1}, "output": "/home/josé", "name": "\udcff"}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_summary_is_json_in_any_encoding(encoding, errors, tmp_path):
    with open(tmp_path / "out", "w", encoding=encoding, errors=errors) as stdout:
        print_summary(SUMMARY, stdout)
        print_summary({"labels": "é"}, stdout)
    first, second = (tmp_path / "out").read_bytes().splitlines()
    assert json.loads(first) == SUMMARY
    assert json.loads(second.decode(encoding)) == {"labels": "é"}


def test_nobody_reads_the_summary():
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stdout:
        print_summary(SUMMARY, stdout)  # nor is anything raised when it is closed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_there_is_no_room_for_the_summary():
    with (
        open("/dev/full", "w") as stdout,
        pytest.raises(FastBertError, match="its summary cannot be written.*No space left"),
    ):
        print_summary(SUMMARY, stdout)


PROGRAM = """
import os, sys
from jobs.streams import print_summary, repair_streams
repair_streams()
assert os.open(os.devnull, os.O_RDONLY) > 2  # the next file would be where closed streams were
try:
    print_summary({}, sys.stdout)
except Exception as error:
    print(error, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("to", "said"), [(">&-", ""), (">&- 2>&- <&-", ""), (">/dev/full", "No space left on device")]
)
def test_a_process_without_streams(to, said):
    command = ["bash", "-c", f'"$@" {to}', "-", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0  # 120 if Python cannot flush at its end
    assert len(done.stderr.splitlines()) == (said != "")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "Ctrl-C"),
        (OSError(errno.ENOSPC, "full", "/data/x"), 1, "No space left on device for /data/x"),
        (MemoryError(), 1, "not enough memory"),
        (ModuleNotFoundError("no module", name="ray.data"), 1, "package ray.data is missing"),
    ],
)
def test_what_befalls_any_command(error, code, says, monkeypatch, tmp_path):
    def fail(_):
        raise error

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("pipelines.reports.job.report", fail)
    result = invoke("report", "--output", tmp_path)
    signal.signal(signal.SIGINT, before)
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert says in line


def test_a_working_directory_that_is_gone(monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused(
        invoke("report", "--output", tmp_path),
        "directory no longer exists (No such file or directory)",
    )


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    def fail(_):
        raise KeyError("bug")

    monkeypatch.setattr("pipelines.reports.job.report", fail)
    assert isinstance(invoke("report", "--output", tmp_path).exception, KeyError)


@pytest.mark.parametrize(
    "content",
    [None, "input: ä".encode("latin-1"), b"a: [\n\n", b"speed: {a: 1}", b"output: [a, b]"],
)
def test_a_config_that_cannot_be_used_is_one_line(content, tmp_path):
    config = tmp_path / "c.yaml"
    config.mkdir() if content is None else config.write_bytes(content)
    refused(invoke("label", "--config", config), str(config))


def test_a_config_of_windows(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "c.yaml").write_text("model: nö\ninput: [x]\noutput: y", encoding=encoding)
        refused(invoke("label", "--config", tmp_path / "c.yaml"), "no checkpoint at")


@pytest.mark.parametrize("address", ["http://head:8265", "head", "head:port", "head:1234567", " "])
def test_no_address_of_a_cluster(address):
    with pytest.raises(InputError, match="RAY_ADDRESS is .*expected HOST:PORT"):
        cluster.check_address(address)


def test_a_cluster_that_is_gone_leaves_no_lock(checkpoint, tmp_path, monkeypatch):
    write_shard(tmp_path / "in" / "a.parquet", random_texts(9))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(FastBertError, match=r"no Ray cluster answers at RAY_ADDRESS") as error:
        label(settings(tmp_path / "in", tmp_path / "out", checkpoint, speed=0.5), RayExecutor())
    assert error.value.exit_code == 1
    assert not (tmp_path / "out" / LOCK).exists()


def test_a_cluster_that_is_silent(monkeypatch):
    monkeypatch.setattr(cluster, "_HEALTH_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(FastBertError, match="no Ray cluster answers"):
            cluster.check_address(address)


def test_a_ray_that_does_not_start_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise OSError("AF_UNIX path length cannot exceed 107 bytes: /scratch/...\nmore")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(FastBertError, match=r"^cannot start Ray [^\n]* RAY_TMPDIR [^\n]*$"):
        cluster.start_ray()


@pytest.mark.parametrize("seconds", [None, 1.0])
def test_a_standstill_is_borne_where_a_release_ends_it(seconds, monkeypatch):
    context = SimpleNamespace() if seconds is None else SimpleNamespace(**{STANDSTILL: seconds})
    monkeypatch.setattr(DataContext, "get_current", lambda: context)
    cluster.bear_standstill(99.0)
    assert getattr(context, STANDSTILL, None) == (99.0 if seconds else None)


@pytest.mark.parametrize("error", [ActorDiedError(), OutOfMemoryError("Task was killed\nmore")])
def test_what_befalls_the_cluster_is_one_line(error):
    with (
        pytest.raises(FastBertError, match=r"^Ray cannot continue: [^\n]*$"),
        cluster.faults_of_ray(),
    ):
        raise error


def test_a_full_disk_of_a_worker_is_one_line_and_a_bug_is_not():
    def failed(cause: Exception) -> RayTaskError:
        trace = f"Traceback\n  file\n{type(cause).__name__}: {cause}\nAdvice of Ray"
        return RayTaskError("stage", trace, cause)

    full = OSError(errno.ENOSPC, "No space left on device", "/out/table/a")
    with pytest.raises(FastBertError, match="No space left on device"), cluster.faults_of_ray():
        raise failed(full)
    with pytest.raises(RayTaskError), cluster.faults_of_ray():
        raise failed(KeyError("bug"))
