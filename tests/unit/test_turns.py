"""Two processes that would do the same: the second says that it waits, and goes on when the first has ended."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from filelock import FileLock

from irstd.commands import train
from irstd.turns import turn
from irstd.workspace import Workspace


def test_the_first_says_nothing(tmp_path):
    said: list[str] = []
    with turn(tmp_path / "lock", lambda: said.append("waits")):
        assert not said
    with turn(tmp_path / "lock", lambda: said.append("waits")):
        assert not said


def test_a_second_training_of_the_same_run_says_that_it_waits(tmp_path, monkeypatch, capsys):
    workspace, said, done = Workspace(tmp_path, tmp_path / ".irstd"), threading.Event(), []
    workspace.runs.mkdir(parents=True)
    monkeypatch.setattr(train, "_execute", lambda *arguments: done.append("trained"))
    monkeypatch.setattr(train, "say", lambda line: (print(line), said.set()))
    thread = threading.Thread(target=lambda: train.execute(workspace, SimpleNamespace(name="ggl-net-1")))
    with FileLock(workspace.runs / ".ggl-net-1.lock"):
        thread.start()
        assert said.wait(30) and not done
    thread.join(30)
    assert done == ["trained"]
    assert capsys.readouterr().out == "run ggl-net-1: another process trains it; waiting for its end\n"
