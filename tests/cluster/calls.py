"""Calls of the trainer (`tests.cluster.trainer`) in processes of their own, and what became of their runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.cluster.test_kill import of_workspace
from tests.integration.conftest import ROOT

SEED = int(os.environ.get("IRSTD_TEST_SEED") or time.time())


@dataclass
class Ended:
    """A call of the trainer that is over."""

    status: int
    lines: list[str]

    def said(self, pattern: str) -> list[str]:
        return [line for line in self.lines if re.search(pattern, line)]


def command(home: Path, shards: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-u", "-m", "tests.cluster.trainer", str(home), str(shards), *arguments]


def surroundings() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("IRSTD_", "PREFECT_", "MLFLOW_", "RAY_"))}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))}


def trained(home: Path, shards: Path, *arguments: str, status: int = 0) -> Ended:
    done = subprocess.run(
        command(home, shards, *arguments),
        cwd=ROOT,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == status, f"seed {SEED}: {done.returncode}\n{done.stdout}"
    # What Ray had started notices that its driver is gone.
    deadline = time.monotonic() + 120
    while of_workspace(home) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not of_workspace(home), f"seed {SEED}: processes are left"
    return Ended(done.returncode, done.stdout.splitlines())


def weights(home: Path) -> dict[str, torch.Tensor]:
    (run,) = (home / "runs").glob("teller-*")
    return load_file(run / "checkpoint" / "model.safetensors")


def state(home: Path) -> dict:
    (run,) = (home / "runs").glob("teller-*")
    return json.loads((run / "checkpoint" / "state.json").read_text())


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), f"seed {SEED}: {key}"


def learnt(*calls: Ended) -> list[set[str]]:
    """The key frames of each step that counts: a call that goes on from step N replaces what came after N before."""
    steps: list[set[str]] = []
    for call in calls:
        told: dict[str, list[list[str]]] = {}
        for line in [*call.lines, "resumed at the end, step 999999"]:
            if found := re.search(r"resumed .*, step (\d+)", line):
                # Workers' lines come mixed, those of one in order. The last step may have been told by some of them only.
                steps += [{key for keys in parts for key in keys} for parts in zip(*told.values(), strict=False)]
                steps, told = steps[: int(found[1])], {}
            elif found := re.match(r"\[worker (\d+)\] learns (.+)", line):
                told.setdefault(found[1], []).append(found[2].split())
    return steps
