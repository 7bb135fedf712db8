"""Two real processes in one run: what they learn from, and how a run goes on over another number of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ranks import child, followed
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def ran(sample_shards, tmp_path_factory):
    """What one process did and what each of two did."""
    folder = tmp_path_factory.mktemp("ranks")
    one = followed(str(sample_shards), folder / "one")
    torch.multiprocessing.spawn(child, (str(folder / "meeting"), str(sample_shards), str(folder)), nprocs=2)
    ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    return folder, json.loads(json.dumps(one)), ranks


def together(ranks, name):
    """Key frames of each step over both ranks, and its rate."""
    first, second = (rank[name]["steps"] for rank in ranks)
    assert first.keys() == second.keys() and all(first[s]["lr"] == second[s]["lr"] for s in first)
    return {step: (sorted(first[step]["keys"] + second[step]["keys"]), first[step]["lr"]) for step in first}


def alone(found):
    return {step: (values["keys"], values["lr"]) for step, values in found["steps"].items()}


def test_two_processes_take_the_key_frames_of_one(ran):
    _, one, ranks = ran
    assert together(ranks, "whole") == alone(one)
    assert ranks[0]["whole"]["weights"] == pytest.approx(ranks[1]["whole"]["weights"], rel=0.1)


def test_a_run_of_one_goes_on_over_two(ran):
    """Nothing is lost or repeated, and the rate is that of the step."""
    _, one, ranks = ran
    assert together(ranks, "from one") == {s: v for s, v in alone(one).items() if int(s) > 5}


def test_a_run_of_two_goes_on_in_one(ran, sample_shards):
    folder, one, _ = ran
    rest = json.loads(json.dumps(followed(str(sample_shards), None, folder / "two" / "step-5")))
    assert alone(rest) == {s: v for s, v in alone(one).items() if int(s) > 5}


def test_as_many_go_on_to_the_same_bits(ran):
    folder, _, ranks = ran
    last = max(int(step) for step in ranks[0]["whole"]["steps"])
    for name in ("model", "best", "optimizer"):
        left, on = (
            load_file(Path(folder / run / f"step-{last}" / f"{name}.safetensors")) for run in ("two", "gone-on")
        )
        assert left.keys() == on.keys() and all(torch.equal(left[k], on[k]) for k in left), name
    for rank in ranks:
        whole, rest = rank["whole"]["steps"], rank["gone on"]["steps"]
        assert rest == {s: v for s, v in whole.items() if int(s) > 5}  # each rank's own draws too
    assert ranks[0]["whole"]["steps"]["6"]["draws"] != ranks[1]["whole"]["steps"]["6"]["draws"]


def test_another_number_of_processes_repeats_no_draws(ran):
    _, one, ranks = ran
    seen = {tuple(v["draws"]) for v in one["steps"].values()}
    assert not seen & {tuple(v["draws"]) for rank in ranks for v in rank["from one"]["steps"].values()}


def test_shared_batch_statistics_need_gpus(ran):
    for rank in ran[2]:
        assert rank["refused"].startswith("train.sync_batch_norm=true: ") and "\n" not in rank["refused"]
