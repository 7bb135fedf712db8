"""Shards built by Ray tasks: the same bytes, and one line where a task fails."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from irstd.cluster.session import session
from irstd.data import shard_plan, shards
from irstd.errors import InputError, WorkError
from irstd.workspace import Workspace
from tests.conftest import CONFIG


def _refuse(job: int) -> int:
    if job == 1:
        raise InputError("job 1: is wrong; mend it")
    return job


def _die(job: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_ray_tasks_build_the_same_bytes(sample_data, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_plan, "TARGET_BYTES", 20_000)
    shards.build(sample_data, tmp_path / "plain", CONFIG)
    broken = tmp_path / "broken"
    shutil.copytree(sample_data, broken)
    recording = broken / "sample" / "a" / "a.mkv"
    recording.write_bytes(recording.read_bytes()[:-400])
    workspace = Workspace(tmp_path, tmp_path / ".irstd").enter()
    with session(workspace, cpus=2):
        from irstd.cluster.shards import tasks

        steps: list[int] = []
        shards.build(sample_data, tmp_path / "out", CONFIG, map=tasks, progress=lambda *step: steps.append(step[1]))
        assert _files(tmp_path / "out") == _files(tmp_path / "plain")
        assert steps == [*range(len([*(tmp_path / "out" / "sample").glob("*.tar")]) + 1)]

        with pytest.raises(InputError, match="^job 1: is wrong; mend it$"):
            [*tasks(_refuse, range(4))]
        with pytest.raises(WorkError, match="^shards: a task failed: .*goes on where it stopped$") as died:
            [*tasks(_die, range(1))]
        assert "\n" not in str(died.value)
        with pytest.raises((InputError, WorkError), match=r"a\.mkv") as refused:
            shards.build(broken, tmp_path / "never", CONFIG, map=tasks)
        assert "\n" not in str(refused.value) and not (tmp_path / "never" / "sample").exists()
