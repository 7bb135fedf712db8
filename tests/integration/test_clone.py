"""What a clone of this repository is made of: DVC accepts it, and its small sample is whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT


@pytest.fixture
def clone(tmp_path) -> Path:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True, capture_output=True)
    return tmp_path / "clone"


def dvc(folder: Path, *arguments: str) -> str:
    # As with the virtual environment active: stages say `python`.
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    call = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(call, cwd=folder, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"dvc {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def test_dvc_accepts_its_stages(clone):
    # A lock file or a stage that git ignores makes DVC refuse every command.
    assert "shard" in dvc(clone, "stage", "list")


@pytest.mark.slow
def test_dvc_pulls_the_sample_and_runs_stages(clone):
    dvc(clone, "pull")
    assert len(list((clone / "data" / "sample").glob("*/sequence.json"))) == 14
    dvc(clone, "repro", "-s", "shard")
    assert "up to date" in dvc(clone, "repro", "-s", "shard")
    assert dvc(clone, "pull") is not None  # with a lock file and outputs that no remote holds


def test_the_remote_in_the_repository_stays_small():
    stored = sum(p.stat().st_size for p in (ROOT / "infra").rglob("*") if p.is_file())
    assert stored < 4 * 2**20
