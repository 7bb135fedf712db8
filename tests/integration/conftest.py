"""A workspace of its own for the tests that walk the road: a small sample, real DVC, Ray and MLflow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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
