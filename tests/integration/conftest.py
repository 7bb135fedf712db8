"""A workspace of its own for the tests that walk the road: a small sample, real DVC, Ray and MLflow."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a workspace is made of, besides data.dvc.
PARTS = ("dvc.yaml", "params.yaml", ".dvcignore", "recipes", "tune_spaces")


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def new_workspace(folder: Path) -> Path:
    """An empty workspace under git and DVC."""
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part)
        else:
            shutil.copy(source, folder / part)
    # The stages depend on the code beside them; here it is the installed one.
    stages = (folder / "dvc.yaml").read_text().splitlines()
    (folder / "dvc.yaml").write_text("\n".join(line for line in stages if "- irstd/" not in line) + "\n")
    (folder / ".gitignore").write_text("/.irstd/\n/data\n/shards/\n")
    (folder / "data.dvc").touch()
    git(folder, "init", "--quiet")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True, capture_output=True)
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "workspace")
    return folder


def irstd(
    folder: Path, *arguments: str, check: int | None = 0, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the command line in `folder` as a user would: nothing exported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("IRSTD_", "PREFECT_", "MLFLOW_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-m", "irstd", *arguments],
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if check is not None:
        assert done.returncode == check, f"irstd {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def forked(
    folder: Path, *arguments: str, check: int | None = 0, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """As `irstd`, in a copy of this process, where Python and the libraries are loaded already: for what starts no Ray."""
    import mlflow.tracking  # noqa: F401
    import torch  # noqa: F401

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = _become(folder, out.fileno(), err.fileno(), list(arguments))
            finally:
                os._exit(status)
        # Nothing here waits for long; a child that hangs ends with the test.
        status = _wait(child, timeout)
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(list(arguments), status, out.read(), err.read())
    if check is not None:
        assert done.returncode == check, f"irstd {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def _become(folder: Path, out: int, err: int, arguments: list[str]) -> int:
    """The command line in this process, as if it had just been started in `folder`; its status."""
    from irstd.cli import run

    os.chdir(folder)
    for name in [n for n in os.environ if n.startswith(("IRSTD_", "PREFECT_", "MLFLOW_", "RAY_"))]:
        del os.environ[name]
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    status = run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _wait(child: int, timeout: float) -> int:
    """The child's status; past `timeout` seconds it is killed."""
    end = time.monotonic() + timeout
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"not over after {timeout:g} s")
        time.sleep(0.01)


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """A source folder with a few short synthetic recordings, as someone would bring them."""
    from irstd.data.synthetic import sample_specs, write_source

    folder = tmp_path_factory.mktemp("source") / "recordings"
    specs = sample_specs()
    chosen = dict(list(specs.items())[:6])
    write_source(folder, chosen)
    return folder


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, source) -> Path:
    """A workspace whose set `sample` is ingested and sharded."""
    folder = new_workspace(tmp_path_factory.mktemp("workspace") / "w")
    irstd(folder, "ingest", str(source), "--name", "sample")
    irstd(folder, "shard")
    return folder
