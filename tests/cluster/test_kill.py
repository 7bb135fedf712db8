"""Kill -9 of a driver half-way: the same command goes on, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.integration.conftest import irstd, new_workspace

RUN = ["train", "ggl-net", "--recipe", "recipes/demo.yaml", "--no-register", "--workers", "2"]
TINY = [
    "train.epochs=6",
    "train.val_every=1",
    "data.crop=32",
    "train.batch=4",
    "model.width=4",
    "train.checkpoint_every=1",
]


def started(folder: Path) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("IRSTD_", "PREFECT_", "MLFLOW_", "RAY_"))}
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "irstd", *RUN, *TINY], cwd=folder, env=kept, stdout=subprocess.PIPE, text=True
    )


def of_workspace(folder: Path) -> list[psutil.Process]:
    """Processes that carry this workspace in their environment or their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join(process.cmdline()) or process.environ().get("PREFECT_HOME", "").startswith(
                str(folder)
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return [p for p in found if p.pid != os.getpid()]


@pytest.mark.slow
def test_a_killed_driver_goes_on_to_the_same_bits(tmp_path, source):
    weights = {}
    for name in ("alone", "killed"):
        folder = new_workspace(tmp_path / name)
        irstd(folder, "ingest", str(source), "--name", "sample")
        irstd(folder, "shard")
        if name == "killed":
            process = started(folder)
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("epoch 2/6"):
                    break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
            # What Ray had started notices that its driver is gone.
            deadline = time.monotonic() + 180
            while of_workspace(folder) and time.monotonic() < deadline:
                time.sleep(1)
            assert not of_workspace(folder)
        done = irstd(folder, *RUN, *TINY)
        assert ("resumed" in done.stdout) == (name == "killed")
        (run,) = (folder / ".irstd" / "runs").glob("ggl-net-*")
        weights[name] = load_file(run / "checkpoint" / "model.safetensors")
        assert not of_workspace(folder)
    assert weights["alone"].keys() == weights["killed"].keys()
    for key, value in weights["alone"].items():
        assert torch.equal(value, weights["killed"][key]), key
