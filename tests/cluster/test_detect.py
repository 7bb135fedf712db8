"""Recordings as Ray tasks: the same lines as in this process; a broken one does not stop the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from irstd.commands import detect
from irstd.workspace import Workspace

sys.path.append(str(Path(__file__).parents[1] / "unit"))


@pytest.mark.slow
def test_ray_tasks_find_the_same(tmp_path, monkeypatch, capsys):
    import detected

    (tmp_path / "data.dvc").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        detected.recording(Path(f"in/{name}.mkv"), 4, seed=ord(name))
    Path("in/c.mkv").write_bytes(b"no video")
    model = str(detected.package(tmp_path / "package"))
    workspace = Workspace(tmp_path, tmp_path / ".irstd").enter()
    assert detect.run(workspace, ["in"], model, Path("here"), 14, overlay=False) == 1
    assert detect.run(workspace, ["in"], model, Path("there"), 14, overlay=False, on_ray=True) == 1
    said = capsys.readouterr().out
    assert "detect: tasks on this machine" in said and said.count("in/c.mkv: failed: cannot be opened") == 2
    for name in ("a", "b"):
        here, there = (Path(out) / name / "detections.jsonl" for out in ("here", "there"))
        assert here.read_bytes() == there.read_bytes() and here.read_bytes()
