"""The chaos benchmark in short, and the proxy and the checks it relies on."""

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import ROOT

from benchmarks.faults.exactly_once import LocalView, Watch, read_tables, table_differences
from benchmarks.faults.faultproxy import HOST, Fault, FaultProxy

BODY = bytes(range(256)) * 40


class Echo(BaseHTTPRequestHandler):
    """GET answers BODY, PUT the length of what came."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(BODY)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(str(len(data)).encode())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with ThreadingHTTPServer((HOST, 0), Echo) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found.server_port
        found.shutdown()


@pytest.fixture
def proxy(server) -> Iterator[FaultProxy]:
    with FaultProxy(server) as found:
        yield found


@pytest.fixture
def client(proxy) -> Iterator[http.client.HTTPConnection]:
    found = http.client.HTTPConnection(HOST, proxy.port, timeout=10)
    yield found
    found.close()


def get(client: http.client.HTTPConnection) -> tuple[int, bytes]:
    client.request("GET", "/")
    response = client.getresponse()
    return response.status, response.read()


def put(client: http.client.HTTPConnection) -> bytes:
    client.request("PUT", "/", body=BODY)
    return client.getresponse().read()


def test_fair_weather_and_slow_connections_change_nothing(proxy, client):
    for fault in (Fault(), Fault("delay", 0.01), Fault("throttle", 1e6)):
        proxy.fault = fault
        assert get(client) == (200, BODY)
        assert put(client) == str(len(BODY)).encode()
    assert proxy.counts["connections"] == 1
    assert proxy.counts["delay"] == 2


def test_refused_also_on_open_connections(proxy, client):
    assert get(client)[0] == 200
    proxy.fault = Fault("refuse")
    for _ in range(2):  # the open connection, then a new one
        with pytest.raises(OSError):  # noqa: PT011
            get(client)
        client.close()
    assert proxy.counts["refuse"] == 2
    proxy.fault = Fault()
    assert get(client) == (200, BODY)


def test_responses_are_cut(proxy, client):
    proxy.fault = Fault("cut responses", 1000)
    with pytest.raises(http.client.IncompleteRead) as error:
        get(client)
    assert 0 < len(error.value.partial) < 1000
    assert proxy.counts["cut responses"] == 1


def test_uploads_are_cut(proxy, client):
    proxy.fault = Fault("cut uploads", 1000)
    with pytest.raises((OSError, http.client.HTTPException)):
        put(client)
    assert proxy.counts["cut uploads"] == 1


def test_503_is_an_answer_to_a_request_and_ends_the_connection(proxy, client):
    assert get(client)[0] == 200
    proxy.fault = Fault("answer 503")
    status, body = get(client)
    assert status == 503
    assert b"SlowDown" in body


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="no fault 'rain'; there are pass, refuse"):
        Fault("rain")


def output(root: Path, **files: list[int]) -> LocalView:
    """An output with these ids by file name."""
    for name, ids in files.items():
        path = root / "table" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": pa.array(ids, pa.int64())}), path)
    return LocalView(root)


def test_differences_are_found(tmp_path):
    expected = read_tables(output(tmp_path / "a", x=[1, 2], y=[3]))
    assert not table_differences(output(tmp_path / "b", x=[1, 2], y=[3]), expected)
    wrong = table_differences(output(tmp_path / "c", x=[2, 1], z=[3]), expected)
    assert [text.partition(":")[0] for text in wrong] == [
        "table/z.parquet is too many",
        "table/y.parquet is missing",
        "table/x.parquet differs",
    ]


def test_the_reader_sees_what_must_not_be(tmp_path):
    expected = read_tables(output(tmp_path / "a", x=[1, 2], y=[3]))
    view = output(tmp_path / "b", x=[1, 2])
    watch = Watch(view, expected, {"ledger/slices/y.json": "table/y.parquet"})
    watch.look()
    assert not watch.wrong
    output(tmp_path / "b", y=[2])
    watch.look()
    assert watch.wrong == [
        "table/y.parquet has 1 rows that are not its own",
        "1 rows of 2 files are there twice",
    ]
    watch.wrong.clear()
    (tmp_path / "b" / "table" / "x.parquet").write_bytes(b"PAR1")
    (tmp_path / "b" / "table" / "y.parquet").unlink()
    (tmp_path / "b" / "ledger" / "slices").mkdir(parents=True)
    (tmp_path / "b" / "ledger" / "slices" / "y.json").touch()
    watch.look()
    assert [text.partition(" (")[0] for text in watch.wrong] == [
        "table/y.parquet has vanished",
        "ledger/slices/y.json is there before table/y.parquet",
        "table/x.parquet",
    ]


@pytest.mark.integration
def test_chaos_in_short(tmp_path):
    """On one machine, the store behind the fault proxy; on Ray in the long version."""
    kills = {"driver": 1, "worker": 1}
    numbers = ",".join(f"{kind}={n}" for kind, n in kills.items())
    command = [sys.executable, "-m", "benchmarks.faults.chaos", "--store", "swift"]
    options = ["--kills", numbers, "--corpus-rows", "300", "--work", str(tmp_path / "work")]
    result = tmp_path / "result.json"
    command += [*options, "--output", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(result.read_text())["local"]
    assert found["complete"]
    assert found["kills"] == kills
    assert not found["failed_checks"]
    assert not found["findings"]
    assert found["rows_quarantined"] == found["runs_cleaned_up"] == 0
    assert found["files_read"] >= found["passes"] * found["corpus"]["slices"]
    assert sum(n for kind, n in found["proxy"].items() if kind != "connections") > 0
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "has all kills of this command" in again.stderr
