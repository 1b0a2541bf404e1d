"""A real S3-compatible store for integration tests: one-node OpenStack Swift on loopback.

Swift stores every byte on disk and checks signatures and checksums, which a mock does not. One
limit matters to tests: its conditional PUT (``If-None-Match: *``) is not atomic between racers.
"""

import base64
import contextlib
import errno
import fcntl
import hashlib
import hmac
import http.client
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

from support import ROOT

SWIFT_REQUIREMENT = "swift==2.38.3"
DEFAULT_VENV = ROOT / ".cache" / "swift"
START_DEADLINE = 600.0
REGION = "us-east-1"
HOST = "127.0.0.1"
STORAGE_SERVERS = ("account", "container", "object")
SERVERS = (*STORAGE_SERVERS, "proxy")
FILTERS = ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "s3api",
           "tempauth", "copy", "slo", "dlo", "versioned_writes", "symlink")  # fmt: skip

# A random hash prefix and suffix would make a reused folder unreadable, so they are fixed.
SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = test
swift_hash_path_suffix = test
[storage-policy:0]
name = single
default = yes
"""
# One text for all four servers. Time limits are long because a late container update would leave
# an object out of listings (no updater runs here). With a single node there is no other to turn
# to, so the proxy must never shun it. A folder is no log socket: nothing reaches syslog's.
SERVER_CONF = """\
[DEFAULT]
bind_ip = {host}
bind_port = {port}
swift_dir = {root}/etc
devices = {root}/devices
user = {user}
log_name = {name}
log_address = {root}/etc
workers = 0
mount_check = false
fallocate_reserve = 0
account_autocreate = true
conn_timeout = 20
node_timeout = 60
container_update_timeout = 60
error_suppression_interval = 0
[pipeline:main]
pipeline = {filters} {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
FILTER_OPTIONS = {
    "s3api": f"location = {REGION}\nmin_segment_size = 5242880\n",
    "tempauth": "user_test_tester = {secret} .admin\n",
    "slo": "min_segment_size = 1\n",
    "versioned_writes": "allow_versioned_writes = true\nallow_object_versioning = true\n",
}

# One process instead of three calls for each ring: ring building is most of a cold start.
BUILD_RINGS = """\
import sys
from swift.common.ring import RingBuilder
for pair in sys.argv[2:]:
    name, port = pair.split("=")
    builder = RingBuilder(4, 1, 1)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, "ip": sys.argv[1],
                     "port": int(port), "device": "d1", "meta": ""})
    builder.rebalance()
    builder.get_ring().save(name + ".ring.gz")
"""
# Asks the kernel for SIGKILL when the parent dies (PR_SET_PDEATHSIG is 1), then becomes the
# server. A preexec_fn would do the same, but may deadlock in a test process that has threads.
EXEC_BOUND = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def install(venv: Path = DEFAULT_VENV) -> Path:
    """Put Swift into its own virtual environment, once, and return that one's ``bin`` folder."""
    venv = venv.absolute()
    venv.parent.mkdir(parents=True, exist_ok=True)
    marker = venv / "installed.txt"
    # The path and interpreter belong to the stamp: moving either breaks a virtual environment.
    stamp = f"{SWIFT_REQUIREMENT}\n{venv}\n{Path(sys.executable).resolve()}\n"
    with open(venv.with_name(venv.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The children inherit the lock: a pip that outlives a killed test run still holds it.
        held = [lock.fileno()]
        if not (marker.exists() and marker.read_text() == stamp):
            shutil.rmtree(venv, ignore_errors=True)
            _check_call([sys.executable, "-m", "venv", str(venv)], pass_fds=held)
            pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
            _check_call([*pip, "install", "--quiet", SWIFT_REQUIREMENT], pass_fds=held)
            marker.write_text(stamp)
    return venv / "bin"


def _check_call(command: list[str], **options: object) -> None:
    """Run a command; its output is only of interest in the error."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{command[:4]} ended with {done.returncode}:\n{done.stdout[-4000:]}")


def _check_extended_attributes(folder: Path) -> None:
    """Fail early: without them Swift answers every upload with an unexplained 5xx."""
    try:
        os.setxattr(folder, "user.object-store-test", b"1")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        raise RuntimeError(
            f"{folder}: this file system has no user extended attributes, which Swift needs; "
            "choose a folder on ext4, xfs or btrfs (with pytest: --basetemp)"
        ) from error


def _reserve_port() -> socket.socket:
    """Bind a free port and keep it bound, so that no other program is given it.

    Swift's servers share ports (SO_REUSEPORT): two stores that picked the same one would silently
    mix. A bound socket that does not listen, with SO_REUSEADDR, lets only an explicit bind in.
    """
    holder = socket.socket()
    holder.bind((HOST, 0))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return holder


class ObjectStore:
    """A store whose data lie below ``root``; use as a context manager.

    Inside the context ``stop`` (a kill -9) and ``start`` play an outage: data and address stay.
    Start it in the main thread, since the servers die with the thread that started them.
    """

    access_key = "test:tester"

    def __init__(self, root: Path, bin_dir: Path | None = None) -> None:
        self.root = root.absolute()
        self.bin_dir = bin_dir or install()
        self.secret_key = secrets.token_hex(16)
        self._holders: dict[str, socket.socket] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "ObjectStore":
        try:
            self._holders = {name: _reserve_port() for name in SERVERS}
            self._configure()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for holder in self._holders.values():
            holder.close()

    @property
    def endpoint_url(self) -> str:
        """The address for path-style S3 requests."""
        return f"http://{HOST}:{self._port('proxy')}"

    @property
    def environment(self) -> dict[str, str]:
        """What S3 clients read at their start; set it before a process that uses them begins."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def make_bucket(self, name: str) -> None:
        """Create a bucket unless it exists; as on AWS, a name has 3 to 63 characters."""
        self._bucket_request("PUT", name)

    def start(self) -> None:
        """Start the servers and wait until a bucket can be created."""
        deadline = time.monotonic() + START_DEADLINE
        # The test process's own Python settings must not reach another virtual environment.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SWIFT"))}
        python = str(self.bin_dir / "python")
        for name in SERVERS:
            server = [str(self.bin_dir / f"swift-{name}-server"), f"{self.root}/etc/{name}.conf"]
            with open(self.root / f"{name}.log", "ab") as log:
                self._processes[name] = subprocess.Popen(
                    [python, "-c", EXEC_BOUND, str(os.getpid()), *server, "--verbose"],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env=env, start_new_session=True,
                )  # fmt: skip
        for name in SERVERS:
            while not self._healthy(name):
                if self._processes[name].poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the {name} server did not start\n{self._log_tails()}")
                time.sleep(0.1)
        try:
            self.make_bucket("start-check")
            self._bucket_request("DELETE", "start-check")
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise RuntimeError(f"the store does not work: {error}\n{self._log_tails()}") from error

    def stop(self) -> None:
        """Kill the servers; each leads its own process group, so nothing of it is left."""
        for process in self._processes.values():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._processes.clear()

    def _port(self, name: str) -> int:
        return int(self._holders[name].getsockname()[1])

    def _request(self, name: str, method: str, path: str, **headers: str) -> tuple[int, str]:
        """Send one request, whatever proxy the machine's settings name."""
        with contextlib.closing(http.client.HTTPConnection(HOST, self._port(name), 20)) as link:
            link.request(method, path, headers=headers)
            response = link.getresponse()
            return response.status, response.read().decode(errors="replace")

    def _bucket_request(self, method: str, bucket: str) -> None:
        """Sign by hand (the short, old way), so that starting a store needs no S3 client."""
        date = formatdate(usegmt=True)
        to_sign = f"{method}\n\n\n{date}\n/{bucket}".encode()
        digest = hmac.digest(self.secret_key.encode(), to_sign, hashlib.sha1)
        signature = f"AWS {self.access_key}:{base64.b64encode(digest).decode()}"
        status, body = self._request(
            "proxy", method, f"/{bucket}", Date=date, Authorization=signature
        )
        if status >= 300 and "BucketAlreadyOwnedByYou" not in body:
            raise RuntimeError(f"{method} bucket {bucket}: {status} {body}")

    def _healthy(self, name: str) -> bool:
        try:
            return self._request(name, "GET", "/healthcheck")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _log_tails(self) -> str:
        logs = {name: self.root / f"{name}.log" for name in SERVERS}
        texts = {name: log.read_text(errors="replace") for name, log in logs.items()}
        return "\n".join(f"--- {name}.log\n{text[-1500:]}" for name, text in texts.items())

    def _configure(self) -> None:
        """Write the rings and settings afresh, since both hold this run's ports."""
        etc, device = self.root / "etc", self.root / "devices" / "d1"
        for folder in (etc, device):
            folder.mkdir(parents=True, exist_ok=True)
        _check_extended_attributes(device)
        (etc / "swift.conf").write_text(SWIFT_CONF)
        user = pwd.getpwuid(os.geteuid()).pw_name
        for name in SERVERS:
            filters = FILTERS if name == "proxy" else ("healthcheck",)
            text = SERVER_CONF + "".join(
                f"[filter:{part}]\nuse = egg:swift#{part}\n{FILTER_OPTIONS.get(part, '')}"
                for part in filters
            )
            text = text.format(
                root=self.root, user=user, secret=self.secret_key, host=HOST, name=name,
                port=self._port(name), filters=" ".join(filters),
            )  # fmt: skip
            (etc / f"{name}.conf").write_text(text)
        pairs = [f"{name}={self._port(name)}" for name in STORAGE_SERVERS]
        _check_call([str(self.bin_dir / "python"), "-c", BUILD_RINGS, HOST, *pairs], cwd=etc)
