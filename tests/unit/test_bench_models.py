"""`irstd bench models` on networks and frames of a few pixels: what it checks before it times, and what it states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from irstd.bench import bp_fpn, ggl_net
from irstd.commands import bench
from irstd.errors import InputError, WorkError
from irstd.models.bp_fpn import BPFPN
from irstd.models.bp_fpn.stream import Stream
from irstd.models.ggl_net import GGLNet
from irstd.workspace import Workspace

GOAL = re.compile(r"^RATIO (.+): [\d.]+ \[.*\] over \d+ rounds; goal ([\d.]+): (?:held|missed)$", re.MULTILINE)
GGL = {"sides": (32,), "width": 8, "batch": 2, "crop": 32, "counts": (1,), "processes": 1}
BP = {"side": 64, "width": 0.125, "batch": 1, "crop": 64}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / ".irstd")


def goals(text: str) -> dict[str, float]:
    return {what.partition(" (")[0]: float(goal) for what, goal in GOAL.findall(text)}


@pytest.mark.slow
def test_ggl_net_states_goals_and_memory(workspace, capsys):
    before = torch.get_num_threads()
    bench.models(workspace, 0.05, False, "ggl-net", **GGL)
    text = capsys.readouterr().out
    wanted = {
        "inference 32x32, 1 thread: ours / plain": 1.4,
        "training step, 2 crops 32x32: ours / plain": 1.15,
        "training step, 2 crops 32x32: with activation checkpointing / without": 0.741,
    }
    assert goals(text) == pytest.approx(wanted, abs=1e-3)
    assert re.search(r"^MEMORY of a training step, 2 crops 32x32, peak .*: (held|missed)$", text, re.MULTILINE)
    assert torch.get_num_threads() == before


def test_bp_fpn_states_goals(workspace, capsys):
    bench.models(workspace, 0.05, False, "bp-fpn", **BP)
    text = capsys.readouterr().out
    wanted = {
        "inference, BP-FPN / host": 0.98,
        "streaming / the whole clip again": 1.3,
        "training step, BP-FPN / host": 0.952,
    }
    assert goals(text) == pytest.approx(wanted, abs=1e-3)


def test_an_unknown_network_is_refused(workspace):
    with pytest.raises(InputError, match="'ggl': bench models knows ggl-net and bp-fpn"):
        bench.models(workspace, 0.05, False, "ggl")


@pytest.mark.parametrize("what", ["folded", "forward"])
def test_a_network_that_gives_other_values_voids_the_ratio(monkeypatch, what):
    right = getattr(GGLNet, what)
    if what == "folded":
        monkeypatch.setattr(GGLNet, "folded", lambda self: right(self).requires_grad_(False).apply(_shifted))
    else:  # in training alone
        monkeypatch.setattr(GGLNet, what, lambda self, x: right(self, x + 0.01 * self.training))
    with pytest.raises(WorkError, match="differs from the plain GGL-Net"):
        ggl_net.measure(0.05, **GGL)


def _shifted(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
        module.bias += 0.01


def test_a_shortcut_that_is_open_at_the_start_voids_the_ratio(monkeypatch):
    right = BPFPN.folded

    def wrong(self: BPFPN) -> BPFPN:
        found = right(self)
        for alpha in found.backbone.gils.alpha.values():
            alpha.data.fill_(1.0)
        return found

    monkeypatch.setattr(BPFPN, "folded", wrong)
    with pytest.raises(WorkError, match="is not its host"):
        bp_fpn.measure(0.05, **BP)


def test_a_stream_that_forgets_voids_the_ratio(monkeypatch):
    right = Stream.__call__

    def wrong(self: Stream, frame_BHW: torch.Tensor) -> torch.Tensor:
        self.reset()
        return right(self, frame_BHW)

    monkeypatch.setattr(Stream, "__call__", wrong)
    with pytest.raises(WorkError, match="stream differs"):
        bp_fpn.measure(0.05, **BP)
