"""Ingest after a kill, and with a remote that cannot be pushed to: data/ and data.dvc agree in the end."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import new_workspace
from tests.integration.forks import forked

# Ends the process between the change to data/ and `dvc add`, as a kill does: nothing is cleaned up.
KILLED = """if True:
    import os, sys
    from irstd import versioning
    from irstd.__main__ import main
    {kill}
    sys.argv = ["irstd", *sys.argv[1:]]
    main()
"""
BEFORE_ADD = "versioning.add_data = lambda workspace: os._exit(9)"
INSIDE_DVC = "versioning.dvc = lambda workspace, *arguments, **options: os._exit(9)"
IN_REMOVE = "import shutil; shutil.rmtree = lambda *arguments, **options: os._exit(9)"


def killed(folder: Path, kill: str, *arguments: str) -> None:
    call = [sys.executable, "-c", KILLED.format(kill=kill), *arguments]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 9, done.stdout + done.stderr


def agrees(folder: Path) -> bool:
    call = [sys.executable, "-m", "dvc", "status", "data.dvc"]
    return "up to date" in subprocess.run(call, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_a_killed_ingest_or_remove_is_made_good(tmp_path, source):
    folder = new_workspace(tmp_path / "w")
    less = tmp_path / "less"
    names = sorted(path.stem for path in source.glob("*.mkv"))
    shutil.copytree(source, less, ignore=shutil.ignore_patterns(f"{names[-1]}.*"))
    ingest = ["ingest", str(less), "--name", "sample"]

    killed(folder, INSIDE_DVC, *ingest)  # the first one: data.dvc names nothing yet
    assert "nothing has changed" not in forked(folder, *ingest).stdout and agrees(folder)
    assert "nothing has changed" in forked(folder, *ingest).stdout

    more = ["ingest", str(source), "--name", "sample"]
    killed(folder, BEFORE_ADD, *more)
    assert not agrees(folder)
    # A mistake in between changes nothing, and forgets nothing.
    forked(folder, "ingest", "--remove", "sample/nothing", check=2)
    assert "nothing has changed" not in forked(folder, *more).stdout and agrees(folder)

    remove = ["ingest", "--remove", f"sample/{names[-1]}"]
    for kill in (BEFORE_ADD, IN_REMOVE):
        killed(folder, kill, *remove)
        assert not (folder / "data" / "sample" / names[-1]).exists()
        assert "removed" in forked(folder, *remove).stdout and agrees(folder)
        assert not list((folder / "data").rglob(".*"))
        forked(folder, *remove, check=2)  # it is gone, and nothing is pending
        forked(folder, *more)

    (folder / "data" / "sample" / "splits.json").unlink()
    forked(folder, *more)
    assert agrees(folder)


def test_a_remote_that_cannot_be_pushed_to_is_refused_first(tmp_path, source):
    folder = new_workspace(tmp_path / "w")
    subprocess.run([sys.executable, "-m", "dvc", "remote", "add", "mine", str(tmp_path / "r")], cwd=folder, check=True)
    ingest = ["ingest", str(source), "--name", "sample", "--push"]
    for remote, word in (("sample", "dvc remote add NAME URL"), ("mien", "did you mean 'mine'?")):
        assert word in forked(folder, *ingest, remote, check=2).stderr
        assert (folder / "data.dvc").read_text() == "" and not (folder / "data" / "sample").exists()
    assert "pushed to mine" in forked(folder, *ingest, "mine").stdout
    assert any((tmp_path / "r").rglob("*.dir"))


@pytest.mark.slow
def test_one_odd_set_does_not_stop_the_shards(tmp_path, source):
    folder = new_workspace(tmp_path / "w")
    forked(folder, "ingest", str(source), "--name", "sample")
    odd = tmp_path / "odd"
    odd.mkdir()
    name = min(path.stem for path in source.glob("*.mkv"))
    for path in source.glob(f"{name}.*"):
        shutil.copy(path, odd)
    forked(folder, "ingest", str(odd), "--name", "odd")
    for _ in range(2):  # the second time the stage does not run
        done = forked(folder, "shard")
        assert "warning: shards: set odd left out" in done.stdout and "shard.split.by=block" in done.stdout
    assert (folder / "shards" / "sample").is_dir() and not (folder / "shards" / "odd").exists()
    assert "no index of shards" in forked(folder, "shard", "--out", ".", check=2).stderr
    assert (folder / "data").is_dir()
