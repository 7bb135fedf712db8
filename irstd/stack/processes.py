"""Starting and stopping the stack's processes: by process id and start time, never by name.

Each service leads a session of its own, so that it outlives the shell, and so that whatever it has started can still be
found when the service itself has died: a session's number is not given to another process while a member lives.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from irstd.environment import running
from irstd.errors import WorkError

LOOPBACK = "127.0.0.1"


def start(command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> tuple[int, float]:
    """Start `command` in its own session, its output in `log`; its process id and the time at which it started.

    The time tells the process from a later one with the same number.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # Each start has a log of its own; the one before is kept beside it.
    if log.exists():
        log.replace(log.with_suffix(".old.log"))
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # It outlives this object, which would otherwise warn that it is still running.
    process.returncode = 0
    return process.pid, psutil.Process(process.pid).create_time()


def members(pid: int, since: float) -> list[psutil.Process]:
    """The living processes of the service that was started as `pid` at `since`, itself first.

    Its session and its descendants: a flow run leads a session of its own, and an orphan has lost its parent.
    """
    found: dict[int, psutil.Process] = {}
    if running(pid, since):
        found[pid] = psutil.Process(pid)
    elif psutil.pid_exists(pid) and not _zombie(pid):
        return []  # the number belongs to somebody else now, so no session of that name can be ours
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == pid and process.create_time() > since - 2:
                found.setdefault(process.pid, process)
    for process in list(found.values()):
        with contextlib.suppress(psutil.Error):
            for child in process.children(recursive=True):
                found.setdefault(child.pid, child)
    return [process for process in found.values() if not _zombie(process.pid)]


def stop(pid: int, since: float, grace: float, children_first: bool = False) -> None:
    """End a service and all that it has started: SIGTERM, and SIGKILL to what is left after `grace` seconds.

    The service is asked alone at first, since a server ends its own workers more cleanly than a signal to each does; or
    its children are (`children_first`), where it has to report how they ended.
    """
    deadline = time.monotonic() + grace
    known = {process.pid: process for process in members(pid, since)}
    if children_first and pid in known and len(known) > 1:
        _send([process for process in known.values() if _parent(process) == pid], signal.SIGTERM)
        _wait([process for process in known.values() if process.pid != pid], grace)
        _wait_reaped([process for process in known.values() if process.pid != pid], grace)
        time.sleep(1.0)  # it knows now how they ended; a moment to tell
        known |= {process.pid: process for process in members(pid, since)}
    if pid in known:
        _send([known[pid]], signal.SIGTERM)
        _wait(known.values(), min(grace, 3.0))
    known |= {process.pid: process for process in members(pid, since)}
    left = _alive(known.values())
    _send(left, signal.SIGTERM)
    left = _wait(left, max(0.5, deadline - time.monotonic()))
    known |= {process.pid: process for process in members(pid, since)}
    left = _alive(known.values())
    _send(left, signal.SIGKILL)
    if stuck := _wait(left, 10.0):
        raise WorkError(f"process {stuck[0].pid} ({' '.join(name_of(stuck[0]).split())}) does not end even by SIGKILL")


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return "gone"


def taken(port: int) -> bool:
    """Whether somebody listens at `port` of the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a connection of yesterday that lingers in TIME_WAIT is no listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def listener(port: int) -> str:
    """Who listens at `port`, for a message: "redis-server (process 42)", or "another program"."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{name_of(psutil.Process(connection.pid))} (process {connection.pid})"
    except psutil.Error:
        pass
    return "another program"


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    # is_running compares start times, so a number that was given away meanwhile is not touched.
    return [process for process in processes if process.is_running() and not _zombie(process.pid)]


def _send(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _wait_reaped(processes: Iterable[psutil.Process], seconds: float) -> None:
    """Wait until the parents of ended processes have taken note of it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(p.is_running() and _zombie(p.pid) for p in processes):
        time.sleep(0.05)


def _wait(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended; the ones that have not."""
    deadline = time.monotonic() + seconds
    left = _alive(processes)
    while left and time.monotonic() < deadline:
        for process in left:  # reaps the ones that this very process has started
            with contextlib.suppress(psutil.Error, ChildProcessError):
                process.wait(timeout=0)
        time.sleep(0.05)
        left = _alive(left)
    return left
