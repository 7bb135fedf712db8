"""One step of a flow: an `irstd` command as a child process.

A child has a main thread (Ray wants one), a stream that can be forwarded to the run's log, and a death of its own: when
it is killed the task fails and Prefect starts it once more, whereas a flow whose own process dies is over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import psutil
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingContextError
from prefect.runtime import flow_run

from irstd.environment import QUIET
from irstd.workspace import Workspace

IRSTD = (sys.executable, "-m", "irstd")

RESULT = "irstd-result: "
"""A command's last line begins with this and goes on with JSON: what the run has produced."""

# The kernel ends the child when the process that waits for it dies, even by SIGKILL: a run that is started again would
# otherwise find the old driver still writing. It is set by the child itself, since code between fork and exec is unsafe
# in a process with threads; and the parent may have died before that.
_FOLLOW_PARENT = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])"
)


class DriverError(RuntimeError):
    """The child ended with `status`: negative for the signal that killed it."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


class BadInput(DriverError):
    """The child ended with status 2: the same input will be as bad the next time."""


def run_driver(
    arguments: Sequence[str],
    workspace: Workspace,
    *,
    program: Sequence[str] = IRSTD,
    grace: float = 15.0,
) -> dict[str, Any] | None:
    """Run `program` with `arguments` in the workspace, its output line by line in the run's log.

    The result that the command has printed (see `RESULT`), or None. `BadInput` when it ended with status 2, and
    `DriverError` when it ended with another or was killed. Whatever ends this call (a cancelled run raises in it) ends
    the child's whole process group: SIGTERM, and SIGKILL after `grace` seconds.
    """
    log = _logger()
    command = [*program, *arguments]
    log.info("irstd %s", " ".join(arguments))
    if sys.platform == "linux":
        command = [sys.executable, "-ISc", _FOLLOW_PARENT, str(os.getpid()), *command]
    child = subprocess.Popen(
        command,
        cwd=workspace.root,
        env=_environment(workspace),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        # A group, so that all of it can be ended; not a session, so that `irstd down` sees whose it is.
        process_group=0,
    )
    last, result = "", None
    try:
        for line in _lines(child):
            if line.startswith(RESULT):
                with contextlib.suppress(ValueError):
                    result = json.loads(line.removeprefix(RESULT))
                continue
            # `prefect ... --watch` prints the log as rich markup, and dies of what looks like a closing tag: [/path].
            last = line.replace("[/", "[ /")
            log.info("%s", last)
        status = child.wait()
    finally:
        _end(child, grace)
    # Status 1 with a result is an answer that says no (a challenger that does not win), not a failure.
    if status == 0 or (status == 1 and result is not None):
        return result if isinstance(result, dict) else None
    last = last.removeprefix("irstd: ") or "it printed nothing"
    if status == 2:
        raise BadInput(last, status)
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    raise DriverError(f"irstd {arguments[0] if arguments else ''} {how}: {last}", status)


def worth_retrying(task: Any, run: Any, state: Any) -> bool:
    """Whether the task's driver died or failed, as opposed to refusing its input."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, DriverError) and not isinstance(error, BadInput)


@task(retries=1, retry_delay_seconds=2, retry_condition_fn=worth_retrying, cache_policy=NO_CACHE, persist_result=False)
def drive(arguments: list[str]) -> dict[str, Any] | None:
    """`run_driver` in the workspace of the working directory. Never cached: what has not changed is DVC's to know."""
    return run_driver(arguments, Workspace.find(), program=IRSTD)


def _environment(workspace: Workspace) -> dict[str, str]:
    # PREFECT__*: this run's own channel to its worker.
    found = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    for name, value in workspace.environment().items():
        if name in QUIET:
            found.setdefault(name, value)
        else:
            found[name] = value
    found["PYTHONUNBUFFERED"] = "1"
    found.setdefault("COLUMNS", "120")
    # Recorded with the models that the command registers.
    found["IRSTD_FLOW_RUN"] = str(flow_run.id or "")
    return found


def _logger() -> Any:
    try:
        return get_run_logger()
    except MissingContextError:  # called outside a run
        return logging.getLogger("irstd.pipelines")


def _lines(child: subprocess.Popen[str]) -> Any:
    """The child's lines as they come, until it has ended.

    Read by a thread: the pipe stays open while any process that inherited it lives, which may be long after the child.
    """
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        with child.stdout:
            for line in child.stdout:
                found.put(line.rstrip())
        found.put(None)

    threading.Thread(target=read, daemon=True, name="driver-output").start()
    ended = None
    while ended is None or time.monotonic() - ended < 2.0:
        try:
            line = found.get(timeout=0.1)
        except queue.Empty:
            if ended is None and child.poll() is not None:
                ended = time.monotonic()
            continue
        if line is None:
            return
        if line:
            yield line


def _end(child: subprocess.Popen[str], grace: float) -> None:
    """End what is left of the child's process group."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + seconds
        if _group(child):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
        while _group(child) and time.monotonic() < deadline:
            time.sleep(0.05)


def _group(child: subprocess.Popen[str]) -> list[int]:
    """Living members of the child's process group."""
    child.poll()  # reaps it
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == child.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
