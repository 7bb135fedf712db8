"""A Ray cluster of several nodes on this machine: processes of `ray start`, each with ports of its own, that can be killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from irstd.stack.processes import free_port
from irstd.workspace import SETTINGS, Workspace

RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--num-cpus=1"]
# Any free ones, or the fixed defaults would collide.
PORTS = ["--min-worker-port=0", "--max-worker-port=0", "--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0"]


class Nodes:
    """The head, with one core, and what is added to it. `home`: whose token the processes share; `log`: what they print."""

    def __init__(self, home: Path, log: Path, temp: Path) -> None:
        settings = {k: dict(v) for k, v in SETTINGS.items()}
        workspace = Workspace(home, home, settings)
        home.mkdir(parents=True, exist_ok=True)
        from irstd import environment

        environment.ensure_ray_token(home)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("IRSTD_", "PREFECT_", "MLFLOW_", "RAY_"))}
        # Ray asks for this where all nodes have the address of this machine alone.
        several = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
        self.environment = kept | workspace.environment(threads=1) | several
        self.log, self.processes = log, []
        self.address = f"127.0.0.1:{free_port()}"
        self.head = self._start(
            "--head", f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false", f"--temp-dir={temp}",
            f"--ray-client-server-port={free_port()}",
        )  # fmt: skip

    def add(self) -> subprocess.Popen[bytes]:
        """A further node, with one core."""
        return self._start(f"--address={self.address}")

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        before = self.log.read_text().count("Ray runtime started") if self.log.exists() else 0
        with self.log.open("ab") as file:
            found = subprocess.Popen([*RAY, *PORTS, *arguments], env=self.environment, stdout=file, stderr=file)
        self.processes.append(found)
        deadline = time.monotonic() + 120
        while self.log.read_text().count("Ray runtime started") == before:
            assert found.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)
        return found

    def take_away(self, node: subprocess.Popen[bytes]) -> None:
        """As if its plug were pulled: every process of the node is killed."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        node.wait()


@contextlib.contextmanager
def nodes(home: Path, log: Path, temp: Path) -> Iterator[Nodes]:
    found = Nodes(home, log, temp)
    try:
        yield found
    finally:
        for process in reversed(found.processes):
            found.take_away(process)
