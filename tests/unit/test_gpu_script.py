"""The script for GPUs, at a tiny size on the CPU: its sides work, and it says where it has nothing to measure."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu
from irstd.bench import checkpoint
from irstd.bench.baselines import Scenes, write_shards
from irstd.training import pace

TINY = Scenes(sequences=1, frames=8, height=48, width=64)
CPU = torch.device("cpu")
GGL = {"model.width": 8, "train.batch": 2, "data.crop": 32}
BP = {"model.width": 0.0625, "model.frames": 2, "train.batch": 2, "data.crop": 32}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(gpu, "CALLS", 1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(TINY, tmp_path_factory.mktemp("gpu"))


@pytest.mark.slow
def test_every_side_takes_the_same_batch(shards):
    report = gpu.precision(shards, CPU, 0.01, GGL, BP, compiled=False)
    assert {(row["network"], row["what"], row["side"]) for row in report.rows} == {
        (network, what, side)
        for network in ("ggl-net", "bp-fpn")
        for what in ("train", "infer")
        for side in ("plain float32", "bf16, channels last")
    }
    assert all(row["samples/s"] > 0 and row["GPU busy"] is None for row in report.rows) and len(report.ratios) == 4


@pytest.mark.slow
def test_each_part_of_bp_fpn_stands_against_the_host(shards):
    report = gpu.parts(shards, CPU, 0.01, BP)
    assert [name for name, _ in report.ratios] == [
        f"{what}: time of {part} / host" for what in ("train", "infer") for part in ("GILS", "DGR", "GILS and DGR")
    ]


def test_where_there_is_no_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    gpu.main()
    assert capsys.readouterr().out == "skipped: there is no GPU that PyTorch can use here\n"


def test_the_share_of_checkpoints_is_of_those_that_were_due(tmp_path, monkeypatch):
    """At a pace at which they are due soon."""
    monkeypatch.setattr(pace, "SHARE", 1.0)
    report = checkpoint.measure(tmp_path, 0.1, TINY, crop=32, width=4, least=1)
    (row,) = report.rows
    assert row["checkpoints"] >= 1 and 0 < row["ms each"] <= row["ms at most"]
    assert report.results[0].startswith("SHARE checkpoints / steps: ")
    assert not (tmp_path / "run").exists()
