"""What a run on Ray survives: kills of workers, driver and all, a damaged checkpoint, a torn index, nodes that come and go.

Everything a run says is read as a user would see it. The steps at which it is killed are drawn, and the seed is printed.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from irstd import config as configuration
from irstd.cluster.storage import INDEX
from irstd.training.optimizer import learning_rate
from tests.cluster.test_kill import of_workspace
from tests.cluster.trainer import TINY
from tests.integration.conftest import ROOT

SEED = int(os.environ.get("IRSTD_TEST_SEED") or time.time())
# Ray starts a dozen processes: on a machine that does other work besides, a run takes minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


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


@pytest.fixture(scope="module", autouse=True)
def seed():
    print(f"IRSTD_TEST_SEED={SEED}")
    return random.Random(SEED)


@pytest.fixture(scope="session")
def alone(sample_shards, tmp_path_factory) -> Callable[[int], tuple[Path, Ended]]:
    """Runs that were left alone, by their number of workers: the folder and what was said."""

    @cache
    def run(workers: int) -> tuple[Path, Ended]:
        home = tmp_path_factory.mktemp("alone")
        return home, trained(home, sample_shards, "--workers", str(workers))

    return run


def test_what_a_network_says_is_shown_once_with_its_worker(alone):
    _, ended = alone(2)
    for rank in (0, 1):
        for words in ("a warning of a network", "a logged warning", "an aside"):
            assert len(ended.said(rf"^\[worker {rank}\] .*{words}$")) == 1, "\n".join(ended.lines)
    # Nothing of Ray's own.
    theirs = r"learns|.*toy_teller.*UserWarning|  warnings.warn|a logged warning|an aside|.*a warning of a network"
    own = rf"^(\[worker \d\] )?({theirs}|run |plan: |warning: batch normalisation |epoch |done)"
    assert not [line for line in ended.lines if not re.match(own, line)]


@pytest.mark.parametrize("workers", [1, 2])
def test_kills_at_any_step_end_with_the_same_bits(sample_shards, tmp_path, alone, seed, workers):
    """A worker, then the driver (all, of one worker); then all, and the newest checkpoint is damaged, and Ray's index torn."""
    total = state(alone(workers)[0])["step"]
    one, two, three = sorted(seed.sample(range(5, total), 3))
    victim = f"kill-worker:{seed.randrange(workers)}@{one}"
    drills = f"{victim},{'kill-driver' if workers == 2 else 'kill-all'}@{two}"
    print(f"IRSTD_TEST_SEED={SEED}: {drills}, all at {three} of {total} steps")
    first = trained(tmp_path, sample_shards, "--workers", str(workers), "--chaos", drills, status=-9)
    assert len(first.said(rf"^chaos {victim}: SIGKILL")) == 1
    (lost,) = first.said(r"^worker \d was lost")
    assert re.search(rf"killed or crashed.*goes on from step {(one - 1) // 4 * 4}, try 2 of 3$", lost), lost
    if workers == 2:
        drills += f",kill-all@{three}"
        second = trained(tmp_path, sample_shards, "--workers", str(workers), "--chaos", drills, status=-9)
        assert len(second.said("was done before in this run")) == 2 and second.said("^chaos kill-all")
        (storage,) = (tmp_path / "ray").glob("teller-*")
        newest = max(storage.glob("checkpoint_2*"), key=lambda p: json.loads((p / "state.json").read_text())["step"])
        content = bytearray((newest / "model.safetensors").read_bytes())
        content[-5] ^= 1
        (newest / "model.safetensors").write_bytes(content)
        (storage / INDEX).write_text('{"checkpoint_results": [')
    last = trained(tmp_path, sample_shards, "--workers", str(workers), "--chaos", drills)
    damaged = last.said("is damaged")
    assert len(damaged) == workers - 1
    assert all("model.safetensors has other bytes than were written" in line for line in damaged)
    assert_same(weights(tmp_path), weights(alone(workers)[0]))


def test_another_number_of_workers_loses_and_repeats_nothing(sample_shards, tmp_path, alone, seed):
    total = state(alone(2)[0])["step"]
    at = seed.randrange(5, total)
    first = trained(tmp_path, sample_shards, "--workers", "2", "--chaos", f"kill-driver@{at}", status=-9)
    second = trained(tmp_path, sample_shards, "--workers", "1")
    assert learnt(first, second) == learnt(alone(2)[1])
    config = configuration.load(overrides=TINY)
    ended = state(tmp_path)
    assert [row["step"] for row in ended["history"]] == [row["step"] for row in state(alone(2)[0])["history"]]
    assert all(row["lr"] == learning_rate(config.train, row["step"], total) for row in ended["history"])


def test_an_error_of_the_program_ends_the_run_at_once(sample_shards, tmp_path):
    ended = trained(tmp_path, sample_shards, "--workers", "2", "train.lr=1e30", "train.clip=null", status=1)
    assert re.match(r"^irstd: run teller-.*: the training loss became (nan|inf|-inf) in step \d+", ended.lines[-1])
    assert not ended.said("was lost|Traceback")


def test_the_benchmark_compares_equal_work(tmp_path, capsys):
    from irstd.bench.baselines import Scenes
    from irstd.commands import bench
    from irstd.workspace import Workspace

    sizes = {"scenes": Scenes(sequences=2, frames=12, height=48, width=56), "crop": 32, "width": 4, "rounds": 1}
    bench.cluster(Workspace(tmp_path, tmp_path / ".irstd"), first=False, **sizes)
    text = capsys.readouterr().out
    for what in (
        "steps/s on Ray / bare loop",
        "steps/s on Ray / bare loop, by CPU time",
        "samples/s of 2 workers / 1 worker",
    ):
        assert f"RATIO {what}" in text
    assert not [*(tmp_path / ".irstd").iterdir()]  # nothing is left behind


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL between workers needs two GPUs")
def test_two_gpus_train_with_nccl(sample_shards, tmp_path):
    ended = trained(tmp_path, sample_shards, "--workers", "2", "--chaos", "kill-worker:1@6")
    assert ended.said("^plan: 2 worker.*and 1 GPU each") and ended.said(r"^worker 1 was lost .* goes on from step 4")
    assert state(tmp_path)["history"][-1]["loss"] < state(tmp_path)["history"][0]["loss"]
