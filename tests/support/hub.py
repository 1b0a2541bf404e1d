"""A stand-in for the Hugging Face hub, on loopback: models and data sets out of folders."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "1" * 40
HOST = "127.0.0.1"


class Hub:
    """Serves `root/models/OWNER/NAME` and `root/datasets/OWNER/NAME`, each at one commit."""

    def __init__(self, root: Path) -> None:
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                self.answer(True, self.rfile.read(size))

            def answer(self, body: bool, posted: bytes = b"") -> None:
                hub.asked.append(f"{self.command} {self.path}")
                found = hub.found(root, unquote(self.path).partition("?")[0], posted)
                if found is None:
                    headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not here"}
                    return self.send(404, b"", headers, body)
                if isinstance(found, Path):
                    return self.file(found, body)
                data = json.dumps(found).encode()
                self.send(200, data, {"Content-Type": "application/json"}, body)

            def file(self, path: Path, body: bool) -> None:
                data, status = path.read_bytes(), 200
                headers = {"ETag": f'"{etag(path)}"', "X-Repo-Commit": COMMIT,
                           "Accept-Ranges": "bytes"}  # fmt: skip
                if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                    first, last = int(part[1]), int(part[2] or len(data) - 1)
                    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                    data, status = data[first : last + 1], 206
                self.send(status, data, headers, body)

            def send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def found(self, root: Path, path: str, posted: bytes) -> Any:
        """A file, what JSON says, or None."""
        if at := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            file = root / (at[1] or "models") / at[2] / at[3]
            return file if file.is_file() else None
        at = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(\w[\w-]*)/?(.*))?", path)
        if at is None or not (folder := root / at[1] / at[2]).is_dir():
            return None
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        if at[3] in (None, "revision"):
            names = [{"rfilename": str(file.relative_to(folder))} for file in files]
            return {"id": at[2], "sha": COMMIT, "siblings": names, "private": False, "tags": []}
        if at[3] == "paths-info":
            wanted = json.loads(posted)["paths"]
            return [described(folder, folder / name) for name in wanted if (folder / name).exists()]
        if at[3] == "tree":
            below = folder / at[4].partition("/")[2]
            inside = [file for file in sorted(below.rglob("*"))] if below.is_dir() else []
            return [described(folder, each) for each in inside]
        return None

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def described(folder: Path, path: Path) -> dict[str, Any]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
    return {"type": "file", "path": name, "oid": etag(path), "size": path.stat().st_size}


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
