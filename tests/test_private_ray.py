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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
import ray

pytestmark = [
    pytest.mark.alone,
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

ROOT = Path(__file__).resolve().parents[1]
# The intruder is another user if we may become one: nobody.
SOMEBODY_ELSE = None if os.geteuid() else 65534
HEALTH = "/grpc.health.v1.Health/Check"  # Ray lets everybody ask, and says no more than "serving"
SERVING = b"\x08\x01".hex()
ALIVE = {"/api/healthz": "raylet: success\ngcs: success", "/api/local_raylet_healthz": "success"}
PATHS = [*ALIVE, "/", "/metrics", "/logs/", "/api/job_agent/jobs/", "/get_runtime_envs_info"]
REQUESTS = [(verb, path) for verb in ("GET", "POST", "OPTIONS") for path in PATHS]
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
PRIVATE = "from pipelines.running.cluster import start_ray; start_ray()"
EXPOSED = "ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False)"
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
    for name in ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port"):
        wait_until(lambda name=name: any(found.session.glob(f"{name}_*")), f"no {name}")


@pytest.fixture(scope="module")
def private() -> Iterator[Running]:
    """As `label.py` starts it, whatever the user set for the clusters that he joins."""
    with running(PRIVATE, RAY_AUTH_MODE="disabled") as found:
        yield found
    wait_until_gone(found.session.parents[1])


def wait_until_gone(directory: Path) -> None:
    wait_until(lambda: not directory.exists(), f"{directory} is still there")


def wait_until(reached: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)


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
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def attempt(
    uid: int | None = None,
    hosts: tuple[str, ...] = (),
    ports: tuple[int, ...] = (),
    calls: tuple[str, ...] = (),
    requests: tuple[tuple[str, str], ...] = (),
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
                reached = s.connect_ex((host, port)) == 0
            got["connect"].append([host, port, reached])
            if not (reached and calls):
                continue
            if answers := list(call(host, port, calls, token)):
                got["grpc"] += [[port, *answer] for answer in answers]
            else:
                got["http"] += [[port, *answer] for answer in ask(host, port, requests, token)]
    got["file"] = [[path, readable(path)] for path in files]
    for path in sockets:
        with socket.socket(socket.AF_UNIX) as s:
            got["socket"].append([path, s.connect_ex(path) == 0])
    return got


def readable(path: str) -> bool:
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            with open(path, "rb"):
                pass
    except (PermissionError, FileNotFoundError):
        return False
    return True


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


def ask(
    host: str, port: int, requests: tuple[tuple[str, str], ...], token: str | None
) -> Iterator[list]:
    """Verb, path, status and body of HTTP requests; nothing where the port speaks no HTTP."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for verb, path in requests:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request(verb, path, headers=headers)
            answer = connection.getresponse()
            yield [verb, path, answer.status, answer.read().decode(errors="replace")]
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()


def submit(address: str, token: str | None, until: str) -> tuple[bool, bool]:
    """A task sent with Ray's own client, as this user: was `until` said, and was it run?

    Refused, that client tries again for a minute; we do not wait for its end.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["RAY_AUTH_MODE"] = "token" if token else "disabled"
    # Else Ray tries the first network interface when told 127.0.0.1, and would fail at that.
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if token:
        environment["RAY_AUTH_TOKEN"] = token
    said = ""
    with subprocess.Popen(
        ["timeout", "-s", "KILL", "20", sys.executable, "-uc", SUBMIT, address],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as client:
        assert client.stdout
        for line in client.stdout:
            said += line
            if until in line:
                for process in psutil.Process(client.pid).children(recursive=True):
                    process.kill()
    return until in said, "got 42" in said


def test_everything_listens_on_loopback_and_no_metrics_are_served(private, exposed):
    assert {ip for ip, _ in private.listening()} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert len(private.ports()) >= 7  # or this test looks at the wrong processes
    assert {"0.0.0.0", "::"} & {ip for ip, _ in exposed.listening()}


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_without_the_token_no_port_gives_anything(private, token):
    got = intrude(
        uid=SOMEBODY_ELSE,
        hosts=["127.0.0.1"],
        ports=private.ports(),
        calls=methods(),
        requests=REQUESTS,
        token=token,
    )
    assert all(reached for _, _, reached in got["connect"])  # all users share the loopback
    answered = [(name, reply) for _, name, status, reply in got["grpc"] if status == "OK"]
    assert set(answered) <= {(HEALTH, SERVING)}
    served = {port for port, _, status, _ in got["grpc"] if status == "UNAUTHENTICATED"}
    http_ports = {port for port, *_ in got["http"]}
    assert served | http_ports == set(private.ports())  # each port was spoken to in its language
    assert len(served) >= 5
    assert len(http_ports) >= 2
    for _, verb, path, status, body in got["http"]:
        if path in ALIVE and status in (200, 405):
            assert body.strip() == (ALIVE[path] if verb == "GET" else "405: Method Not Allowed")
        else:
            assert status in (401, 403)


def test_with_the_token_or_without_protection_they_answer(private, exposed):
    everything = {}
    for cluster in (private, exposed):
        got = intrude(
            uid=SOMEBODY_ELSE,
            hosts=["127.0.0.1"],
            ports=cluster.ports(),
            calls=HARMLESS,
            requests=[("GET", "/logs/"), ("GET", "/metrics")],
            token=cluster.token,
        )
        assert {name for _, name, status, _ in got["grpc"] if status == "OK"} == set(HARMLESS)
        everything[cluster.gcs] = {path for _, _, path, status, _ in got["http"] if status == 200}
    assert everything == {private.gcs: {"/logs/"}, exposed.gcs: {"/logs/", "/metrics"}}


def test_work_is_taken_with_the_token_only(private):
    unauthenticated = "InvalidAuthToken"
    attempts = [
        (private.gcs, private.token, "got 42"),
        (private.gcs, None, unauthenticated),
        (private.gcs, "0" * 64, unauthenticated),
        (f"ray://{private.gcs}", None, "got 42"),  # there is no such server; its client waits
    ]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda attempt: submit(*attempt), attempts))
    assert results == [(True, True), (True, False), (True, False), (False, False)]


@pytest.mark.skipif(SOMEBODY_ELSE is None, reason="only root can become another user")
def test_another_user_reads_no_file_and_reaches_no_socket(private, exposed):
    for cluster, open_to_all in ((private, False), (exposed, True)):
        files = [
            str(p) for p in (cluster.session, *cluster.session.rglob("*")) if not p.is_socket()
        ]
        got = intrude(uid=SOMEBODY_ELSE, files=files)
        assert any(readable for _, readable in got["file"]) == open_to_all
    sockets = [str(p) for p in (private.session / "sockets").iterdir()]
    assert {Path(p).name for p in sockets} == {"plasma_store", "raylet"}
    memory = private.held_in_shared_memory()
    assert memory
    secrets = [f"/proc/{p.pid}/environ" for p in private.processes()]
    got = intrude(uid=SOMEBODY_ELSE, files=memory + secrets, sockets=sockets)
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


def listening_to_others() -> set[int]:
    """Ports on which any process of this machine takes connections from outside."""
    return {
        c.laddr.port
        for c in psutil.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and not c.laddr.ip.endswith(("127.0.0.1", "::1"))
    }


def test_another_host_reaches_nothing(private, exposed, other_host):
    ours = [
        a.address
        for addresses in psutil.net_if_addrs().values()
        for a in addresses
        if a.family == socket.AF_INET and not a.address.startswith("127.")
    ]
    assert "198.18.77.1" in ours
    from_there = ("ip", "netns", "exec", other_host)
    # Two Rays may have a port of one number on different addresses.
    ports = sorted(set(private.ports()) - listening_to_others())
    assert len(ports) >= 6
    got = intrude(from_there, hosts=ours, ports=ports)
    assert len(got["connect"]) == len(ours) * len(ports)
    assert not any(reached for *_, reached in got["connect"])
    got = intrude(from_there, hosts=ours, ports=exposed.ports(), calls=HARMLESS)
    assert {name for _, name, status, _ in got["grpc"] if status == "OK"} == set(HARMLESS)


def test_nothing_is_left_of_a_killed_driver():
    with running(PRIVATE) as found:
        directory = found.session.parents[1]
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        found.driver.kill()
    wait_until_gone(directory)


if __name__ == "__main__":
    print(json.dumps(attempt(**json.load(sys.stdin))))
