"""What a run on Ray survives: kills of workers, driver and all, a damaged checkpoint, a torn index, nodes that come and go.

Everything a run says is read as a user would see it. The steps at which it is killed are drawn, and the seed is printed.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys

import pytest
import torch

from irstd import config as configuration
from irstd.cluster.storage import INDEX
from irstd.training.optimizer import learning_rate
from tests.cluster.calls import SEED, assert_same, learnt, state, surroundings, trained, weights
from tests.cluster.test_kill import of_workspace
from tests.cluster.test_nodes import running
from tests.cluster.trainer import TINY

# Ray starts a dozen processes: on a machine that does other work besides, a run takes minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module", autouse=True)
def seed():
    print(f"IRSTD_TEST_SEED={SEED}")
    return random.Random(SEED)


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


def test_a_lost_controller_of_ray_is_gone_on_from(sample_shards, tmp_path, alone):
    killed = False
    with running(tmp_path, sample_shards, "--workers", "2") as until:
        until(r"^epoch 1")
        for process in of_workspace(tmp_path):
            if "TrainController" in " ".join(process.cmdline()):
                process.kill()
                killed = True
        until(r"^Ray's controller was lost .*goes on from the last checkpoint, try 2 of 3")
        until(r"^resumed .*, step [1-9]")
    assert killed
    assert_same(weights(tmp_path), weights(alone(2)[0]))


def test_an_error_of_the_program_ends_the_run_at_once(sample_shards, tmp_path):
    ended = trained(tmp_path, sample_shards, "--workers", "2", "train.lr=1e30", "train.clip=null", status=1)
    assert re.match(r"^irstd: run teller-.*: the training loss became (nan|inf|-inf) in step \d+", ended.lines[-1])
    assert not ended.said("was lost|Traceback")


BENCH = """
import sys
from pathlib import Path
from irstd.bench.baselines import Scenes
from irstd.commands import bench
from irstd.workspace import Workspace
root = Path(sys.argv[1])
sizes = {"scenes": Scenes(sequences=2, frames=12, height=48, width=56), "crop": 32, "width": 4, "rounds": 1}
bench.cluster(Workspace(root, root / ".irstd").enter(), **sizes)
"""


@pytest.mark.timeout(900)
def test_the_benchmark_compares_equal_work(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BENCH, str(tmp_path)],
        cwd=tmp_path,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FIRST STEP irstd train" in done.stdout
    for what in (
        "steps/s on Ray / bare loop",
        "steps/s on Ray / bare loop, by CPU time",
        "samples/s of 2 workers / 1 worker",
    ):
        assert f"RATIO {what}" in done.stdout
    assert not [each for each in (tmp_path / ".irstd").iterdir() if each.name != "ray-token"]  # nothing is left behind


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL between workers needs two GPUs")
def test_two_gpus_train_with_nccl(sample_shards, tmp_path):
    ended = trained(tmp_path, sample_shards, "--workers", "2", "--chaos", "kill-worker:1@6")
    assert ended.said("^plan: 2 worker.*and 1 GPU each") and ended.said(r"^worker 1 was lost .* goes on from step 4")
    assert state(tmp_path)["history"][-1]["loss"] < state(tmp_path)["history"][0]["loss"]
