"""Real servers on loopback: one of files, with ranges, tags, and the faults that servers have; and MLflow's own."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from irstd.data.public.records import RemoteFile


class Server:
    """`files`: {path: content}; `requests`: what was asked, as (path, Range, If-Range), and `faults`: what to do to the
    next requests, one each: a status, ("cut", bytes of the body after which the connection breaks), or ("to", address)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None, str | None]] = []
        self.faults: list[Any] = []
        self.ranges = True
        self.tags = True
        self.url = ""

    def remote(self, path: str, place: str | None = None, content: bytes | None = None) -> RemoteFile:
        """The file at `path` as a list names it; `content`: what the list believes it is."""
        known = self.files[path] if content is None else content
        return RemoteFile(f"{self.url}/{path}", place or path, len(known), hashlib.sha256(known).hexdigest())


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked, condition = self.headers["Range"], self.headers["If-Range"]
            server.requests.append((self.path[1:], asked, condition))
            fault = server.faults.pop(0) if server.faults else None
            content = server.files.get(self.path[1:])
            if isinstance(fault, int) or content is None:
                return self.answer(fault or 404, b"<html>sorry</html>")
            if fault and fault[0] == "to":
                return self.answer(302, b"", Location=fault[1])
            tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
            named = {"ETag": tag} if server.tags else {}
            first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
            if first and condition not in (None, tag):
                first = 0
            if first >= len(content) and first:
                return self.answer(416, b"", **{"Content-Range": f"bytes */{len(content)}"})
            if first:
                named["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            return self.answer(206 if first else 200, content[first:], fault[1] if fault else None, **named)

        def answer(self, status: int, body: bytes, stop: int | None = None, **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:stop])
            if stop is not None:
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        server.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            running.shutdown()
            thread.join()


class TrackingServer:
    """MLflow's own server on loopback, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--default-artifact-root", str(self.folder / "artifacts"), "--no-serve-artifacts"]
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        nowhere = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, env=env, cwd=self.folder, start_new_session=True, stdout=nowhere, stderr=nowhere
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
