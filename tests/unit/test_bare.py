"""A run by `python -m irstd.training`: without the upper stack, killed and gone on, over several processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toys import TOYS

from irstd.inference.package import Package
from irstd.training import bare
from irstd.training.__main__ import main
from irstd.training.store import Store
from tests.unit.test_layers import ROOT, UPPER

RECIPE = {
    "model": {"name": "toy_irstd.nets:Plain"},
    "data": {"crop": 32},
    "train": {"batch": 4, "epochs": 3, "ema": 0.5, "val_steps": 3, "checkpoint_every": 1},
}


@pytest.fixture
def given(sample_shards, tmp_path, monkeypatch):
    """Arguments of the launcher; the working directory is one where the network lies."""
    monkeypatch.chdir(TOYS)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return [str(tmp_path / "recipe.yaml"), "--shards", str(sample_shards), "--device", "cpu", "--out"]


def run_of(out: Path) -> Path:
    (found,) = (p for p in out.iterdir() if p.is_dir())
    return found


def same(left: Path, right: Path) -> None:
    for name in ("model", "best", "optimizer"):
        one, two = (load_file(run_of(out) / "checkpoint" / f"{name}.safetensors") for out in (left, right))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one), name


@pytest.mark.slow
def test_killed_at_any_step_it_ends_with_the_same_bits(given, tmp_path, capsys, monkeypatch):
    """Without the upper stack in one process, and killed again and again in another."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code = f"import sys\nfor name in {UPPER!r}: sys.modules[name] = None\n"
    code += "from irstd.training.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    call = [sys.executable, "-c", code, *given, str(whole)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "about" in done.stdout and done.stdout.rstrip().endswith(f"package: {run_of(whole) / 'package'}")
    assert {p.name for p in run_of(whole).iterdir()} == {"checkpoint", "package", "run.json"}

    total = json.loads((run_of(whole) / "checkpoint" / "state.json").read_text())["step"]
    kills = sorted(random.Random(int.from_bytes(os.urandom(2))).sample(range(1, total), 3))
    for step in kills:
        with monkeypatch.context() as patch:

            def die(self, now, at=step):
                if now == at:
                    raise KeyboardInterrupt

            patch.setattr(bare.Progress, "__call__", die)
            with pytest.raises(KeyboardInterrupt):
                main([*given, str(killed)])
    assert main([*given, str(killed)]) == 0, kills
    same(whole, killed)
    said = capsys.readouterr().out
    assert said.count("resumed") >= 1 and Package.read(run_of(killed) / "package").model() is not None
    assert main([*given, str(killed)]) == 0
    assert "trained before, nothing has changed" in capsys.readouterr().out

    from irstd.commands.evaluate import measured

    found = measured(Package.read(run_of(killed) / "package"), Path(given[2]), "test", ["sample"])[1]
    assert found["chosen"] == "val-best" and found["run"] == run_of(killed).name


def test_a_damaged_checkpoint_is_passed_over(given, tmp_path, capsys, monkeypatch):
    def die(self, metrics, checkpoint, put=Store.__call__):
        put(self, metrics, checkpoint)
        if metrics["step"] == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "__call__", die)
        with pytest.raises(KeyboardInterrupt):
            main([*given, str(tmp_path / "runs")])
    last = run_of(tmp_path / "runs") / "checkpoints" / "step-00000009"
    content = bytearray((last / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (last / "optimizer.safetensors").write_bytes(content)
    capsys.readouterr()
    assert main([*given, str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert f"checkpoint {last} is damaged (optimizer.safetensors has other bytes" in said
    assert "goes on from the one before, step " in said and "resumed" in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["train.epoch=1"], "did you mean 'train.epochs'"),
        (["train.batch=4096"], "train.batch=4096 is more than the"),
        (["--device", "cuda"], "there is no GPU"),
    ],
)
def test_bad_input_is_one_line(given, tmp_path, capsys, more, words):
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main([*given, str(tmp_path / "runs"), *more]) == 2
    line = capsys.readouterr().err
    assert words in line and line.count("\n") == 1 and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_several_processes(given, tmp_path, capsys):
    """By torchrun; one process then takes the result as its own, since it is the same run."""
    out = tmp_path / "runs"
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call += ["-m", "irstd.training", *given, str(out)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: val-best checkpoint") == 1
    record = json.loads((run_of(out) / "run.json").read_text())
    assert [place["workers"] for place in record["lineage"]["workers"]] == [2]
    assert main([*given, str(out)]) == 0
    assert "trained before" in capsys.readouterr().out
