"""Command lines in copies of one clean process, where Python and the libraries are loaded already.

A start of `irstd` imports for seconds; most tests of the command line wait for nothing else. The copies are made of a server
process that does nothing but import this module: it has no threads, no open database and nothing of the tests in it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import cv2  # noqa: F401
import mlflow.tracking  # noqa: F401
import torch  # noqa: F401

from irstd.cli import run

OURS = ("IRSTD_", "PREFECT_", "MLFLOW_", "RAY_")
"""What a user's shell would not have set."""


def forked(
    folder: Path, *arguments: str, check: int | None = 0, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """As `irstd`, for what starts no Ray."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory(prefix="irstd-fork-") as place:
        texts = [Path(place) / name for name in ("out", "err")]
        child = context.Process(target=_become, args=(folder, *texts, list(arguments)))
        child.start()
        try:
            child.join(timeout)
            late = child.is_alive()
        finally:
            if child.is_alive():
                child.kill()
                child.join()
        out, err = (path.read_text() if path.exists() else "" for path in texts)
        status = child.exitcode or 0
    said = f"irstd {' '.join(arguments)}: {'not over in time' if late else status}\n{out}\n{err}"
    assert not late and (check is None or status == check), said
    return subprocess.CompletedProcess(list(arguments), status, out, err)


def _become(folder: Path, out: Path, err: Path, arguments: list[str]) -> None:
    """The command line in this process, as if it had just been started in `folder`."""
    os.chdir(folder)
    for name in [n for n in os.environ if n.startswith(OURS)]:
        del os.environ[name]
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    status = 70
    try:
        status = run(arguments)
    except BaseException:
        traceback.print_exc()
    sys.exit(status)
