"""The Ray that a job starts for itself serves neither other users of the machine nor other hosts.

Run as a program, this file is the intruder: it tries what its stdin lists and prints what it got.
"""

import http.client
import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
import ray

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534
HEALTH = "/grpc.health.v1.Health/Check"  # Ray lets everybody ask, and says no more than "serving"
SERVING = b"\x08\x01".hex()
ALIVE = {"/api/healthz": "raylet: success\ngcs: success", "/api/local_raylet_healthz": "success"}
PATHS = [*ALIVE, "/", "/metrics", "/logs/", "/api/job_agent/jobs/", "/get_runtime_envs_info"]
HARMLESS = [
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
]

DRIVER = """
import json, os, sys
import ray
{start}

@ray.remote
def task():
    return "done"

held = ray.put(b"x" * 1_000_000)  # in shared memory
assert ray.get(task.remote()) == "done"
print(json.dumps({{
    "gcs": ray.get_runtime_context().gcs_address,
    "session": ray._private.worker._global_node.get_session_dir_path(),
    "token": os.environ.get("RAY_AUTH_TOKEN"),
}}), flush=True)
sys.stdin.read()
"""
PRIVATE = "from pipelines.ray_cluster import start_ray; start_ray()"
EXPOSED = "ray.init(address='local', num_cpus=4, include_dashboard=False, log_to_driver=False)"
SUBMIT = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("got", ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


@dataclass(frozen=True)
class Running:
    """A Ray started by another process."""

    driver: subprocess.Popen
    gcs: str
    session: Path
    token: str | None

    def processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.driver.pid)
        return [parent, *parent.children(recursive=True)]

    def listening(self) -> set[tuple[str, int]]:
        """Address and port of every TCP socket on which its processes take connections."""
        return {
            (c.laddr.ip, c.laddr.port)
            for process in self.processes()
            for c in process.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN
        }

    def ports(self) -> list[int]:
        return sorted({port for _, port in self.listening()})

    def held_in_shared_memory(self) -> list[str]:
        """What its processes have open in /dev/shm, as paths below /proc."""
        found = []
        for process in self.processes():
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                if descriptor.is_symlink() and os.readlink(descriptor).startswith("/dev/shm/"):
                    found.append(str(descriptor))
        return found


@contextmanager
def running(start: str, **environment: str) -> Iterator[Running]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(start=start)],
        cwd=ROOT,
        env=kept | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin
    assert driver.stdout
    try:
        said = json.loads(driver.stdout.readline())
        found = Running(driver, said["gcs"], Path(said["session"]), said["token"])
        wait_for_agents(found)
        yield found
    finally:
        driver.stdin.close()
        driver.wait(60)


def wait_for_agents(found: Running) -> None:
    """They begin to listen some seconds after Ray is ready, and leave their ports in files."""
    deadline = time.monotonic() + 30
    for name in ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port"):
        while not list(found.session.glob(f"{name}_*")):
            assert time.monotonic() < deadline, f"no {name}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def private() -> Iterator[Running]:
    """As `label.py` starts it, whatever the user set for the clusters that he joins."""
    with running(PRIVATE, RAY_AUTH_MODE="disabled") as found:
        yield found


@pytest.fixture(scope="module")
def exposed() -> Iterator[Running]:
    """Ray as it is without us: shows that the intruder knows the way in."""
    with running(EXPOSED, RAY_AUTH_MODE="disabled") as found:
        yield found


def methods() -> list[str]:
    """Every gRPC method that Ray's own stubs know, and those of the object manager."""
    stubs = Path(ray.__file__).parent / "core" / "generated"
    found = {
        name
        for file in stubs.glob("*_pb2_grpc.py")
        for name in re.findall(r"'(/ray\.[\w.]+/\w+)'", file.read_text())
    }
    assert len(found) > 100
    objects = {f"/ray.rpc.ObjectManagerService/{m}" for m in ("Push", "Pull", "FreeObjects")}
    return sorted(found | objects | {HEALTH})


def intrude(prefix: tuple[str, ...] = (), **attempts: object) -> dict:
    """What an intruder gets who makes these attempts."""
    result = subprocess.run(
        [*prefix, sys.executable, __file__],
        input=json.dumps(attempts),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def attempt(
    uid: int | None = None,
    hosts: tuple[str, ...] = (),
    ports: tuple[int, ...] = (),
    calls: tuple[str, ...] = (),
    token: str | None = None,
    files: tuple[str, ...] = (),
    sockets: tuple[str, ...] = (),
) -> dict:
    """The intruder's side: {what it tried: what it got}."""
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    got: dict[str, list] = {"connect": [], "grpc": [], "http": [], "file": [], "socket": []}
    for host in hosts:
        for port in ports:
            with socket.socket() as s:
                s.settimeout(5)
                got["connect"].append([host, port, s.connect_ex((host, port)) == 0])
            if calls and got["connect"][-1][2]:
                got["grpc"] += [[port, *answer] for answer in call(host, port, calls, token)]
                got["http"] += [[port, *answer] for answer in request(host, port, token)]
    for path in files:
        try:
            readable = bool(os.listdir(path)) if os.path.isdir(path) else bool(open(path, "rb"))
        except OSError as e:
            readable = not isinstance(e, PermissionError | FileNotFoundError)
        got["file"].append([path, readable])
    for path in sockets:
        with socket.socket(socket.AF_UNIX) as s:
            got["socket"].append([path, s.connect_ex(path) == 0])
    return got


def call(host: str, port: int, calls: tuple[str, ...], token: str | None) -> Iterator[list]:
    """Method, status and reply in hex of an empty request to each method."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        if not answers_grpc(channel):
            return
        for name in calls:
            try:
                reply = channel.unary_unary(name)(b"", metadata=metadata, timeout=5)
                yield [name, "OK", reply.hex()]
            except grpc.RpcError as e:
                yield [name, e.code().name, ""]


def answers_grpc(channel: grpc.Channel) -> bool:
    try:
        grpc.channel_ready_future(channel).result(timeout=1)
    except grpc.FutureTimeoutError:
        return False
    return True


def request(host: str, port: int, token: str | None) -> Iterator[list]:
    """Method, path, status and body of HTTP requests; nothing where the port speaks no HTTP."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for method in ("GET", "POST", "OPTIONS"):
        for path in PATHS:
            connection = http.client.HTTPConnection(host, port, timeout=5)
            try:
                connection.request(method, path, headers=headers)
                answer = connection.getresponse()
                yield [method, path, answer.status, answer.read().decode(errors="replace")]
            except (OSError, http.client.HTTPException):
                break
            finally:
                connection.close()


def submit(cluster: Running, token: str | None, address: str = "") -> subprocess.CompletedProcess:
    """A task sent with Ray's own client, as this user."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["RAY_AUTH_MODE"] = "token" if token else "disabled"
    if token:
        environment["RAY_AUTH_TOKEN"] = token
    return subprocess.run(
        ["timeout", "10", sys.executable, "-c", SUBMIT, address or cluster.gcs],
        env=environment,
        capture_output=True,
        text=True,
    )


def as_root() -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")


def test_everything_listens_on_loopback_and_no_metrics_are_served(private, exposed):
    assert {ip for ip, _ in private.listening()} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert len(private.ports()) >= 7  # or this test looks at the wrong processes
    assert {"0.0.0.0", "::"} & {ip for ip, _ in exposed.listening()}


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_without_the_token_no_port_gives_anything(private, token):
    uid = None if os.geteuid() else NOBODY
    got = intrude(uid=uid, hosts=["127.0.0.1"], ports=private.ports(), calls=methods(), token=token)
    assert all(reached for _, _, reached in got["connect"])  # all users share the loopback
    answered = [(name, reply) for _, name, status, reply in got["grpc"] if status == "OK"]
    assert set(answered) <= {(HEALTH, SERVING)}
    served = {port for port, _, status, _ in got["grpc"] if status == "UNAUTHENTICATED"}
    http_ports = {port for port, *_ in got["http"]}
    assert served | http_ports == set(private.ports())  # each port was spoken to in its language
    assert len(served) >= 5
    assert len(http_ports) >= 2
    for _, method, path, status, body in got["http"]:
        assert status in (401, 403) or (method == "GET" and body.strip() == ALIVE[path])


def test_with_the_token_or_without_protection_they_answer(private, exposed):
    for cluster in (private, exposed):
        uid = None if os.geteuid() else NOBODY
        got = intrude(
            uid=uid, hosts=["127.0.0.1"], ports=cluster.ports(), calls=HARMLESS,
            token=cluster.token,
        )  # fmt: skip
        assert {name for _, name, status, _ in got["grpc"] if status == "OK"} == set(HARMLESS)
        served = [(m, path) for _, m, path, status, _ in got["http"] if status == 200]
        assert ("GET", "/logs/") in served or ("POST", "/get_runtime_envs_info") in served
    assert ("GET", "/metrics") in served  # of the exposed one


def test_work_is_taken_with_the_token_only(private):
    taken = submit(private, private.token)
    assert "got 42" in taken.stdout, taken.stderr
    for token in (None, "0" * 64):
        for address in ("", f"ray://{private.gcs}"):
            refused = submit(private, token, address)
            assert refused.returncode != 0
            assert "got" not in refused.stdout


def test_another_user_reads_no_file_and_reaches_no_socket(private, exposed):
    as_root()
    for cluster, open_to_all in ((private, False), (exposed, True)):
        files = [
            str(p) for p in (cluster.session, *cluster.session.rglob("*")) if not p.is_socket()
        ]
        got = intrude(uid=NOBODY, files=files)
        assert any(readable for _, readable in got["file"]) == open_to_all
    sockets = [str(p) for p in (private.session / "sockets").iterdir()]
    assert {Path(p).name for p in sockets} == {"plasma_store", "raylet"}
    memory = private.held_in_shared_memory()
    assert memory
    secrets = [f"/proc/{p.pid}/environ" for p in private.processes()]
    got = intrude(uid=NOBODY, files=memory + secrets, sockets=sockets)
    assert not any(success for _, success in got["file"] + got["socket"])
    got = intrude(files=memory + secrets, sockets=sockets)  # as the owner
    assert all(success for _, success in got["file"] + got["socket"])


def test_shared_memory_has_no_name_and_is_the_owners(private):
    for path in private.held_in_shared_memory():
        assert os.readlink(path).endswith(" (deleted)")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_the_token_is_in_no_log_and_on_no_command_line(private):
    assert private.token
    assert len(private.token) == 64
    token = private.token.encode()
    for file in private.session.parent.rglob("*"):
        if file.is_file():
            assert token not in file.read_bytes(), file
    for process in psutil.process_iter(["cmdline"]):
        assert private.token not in " ".join(process.info["cmdline"] or [])


@pytest.fixture
def other_host() -> Iterator[str]:
    """A network namespace joined to ours by one cable: for our network stack, another machine."""
    name = f"fb{os.getpid()}"
    setup = [
        f"netns add {name}",
        f"link add {name}a type veth peer name {name}b netns {name}",
        f"addr add 198.18.77.1/30 dev {name}a",
        f"link set {name}a up",
        f"-n {name} addr add 198.18.77.2/30 dev {name}b",
        f"-n {name} link set {name}b up",
        f"-n {name} link set lo up",
        f"-n {name} route add default via 198.18.77.1",
    ]
    try:
        for command in setup:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        pytest.skip(f"no network namespaces here: {e}")
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)  # and its cable with it


def test_another_host_reaches_nothing(private, exposed, other_host):
    ours = [
        a.address
        for addresses in psutil.net_if_addrs().values()
        for a in addresses
        if a.family == socket.AF_INET and not a.address.startswith("127.")
    ]
    assert "198.18.77.1" in ours
    from_there = ("ip", "netns", "exec", other_host)
    got = intrude(from_there, hosts=[*ours, "127.0.0.1"], ports=private.ports(), calls=methods())
    assert len(got["connect"]) == (len(ours) + 1) * len(private.ports())
    assert not any(reached for *_, reached in got["connect"])
    got = intrude(from_there, hosts=ours, ports=exposed.ports(), calls=HARMLESS)
    assert {name for _, name, status, _ in got["grpc"] if status == "OK"} == set(HARMLESS)


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_left_on_disk(killed, tmp_path):
    with running(PRIVATE, RAY_TMPDIR=str(tmp_path)) as found:
        (directory,) = tmp_path.iterdir()
        assert found.session.is_relative_to(directory)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        if killed:
            found.driver.kill()
    deadline = time.monotonic() + 20
    while any(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.2)


if __name__ == "__main__":
    print(json.dumps(attempt(**json.load(sys.stdin))))
