"""The ablation bench: runs of one seed differ in the arm alone, and its tables say what the rows hold."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from recordings import shared

from benchmarks import ablation
from benchmarks.ablation import ARMS, SETTINGS, Watch, differences, interval, report, start_alike, train
from benchmarks.trials import Trial, run_all
from irstd import config as configuration
from irstd.data.manifest import read_all
from irstd.training.loop import Run

SMALL = {"model.width": 0.0625, "model.frames": 2, "train.batch": 2, "train.warmup": 1}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generated sequences to train on and one to measure."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SIDE": 64, "LENGTH": 6, "TRAIN": 2, "VAL": 1}.items():
            patch.setattr(ablation, name, value)
        return ablation.generated(tmp_path_factory.mktemp("scenes"))


def started(shards: Path, arm: str, seed: int = 0) -> Run:
    options = SETTINGS | SMALL | ARMS[arm] | {"train.seed": seed, "train.epochs": 1}
    run = Run(configuration.load(overrides=options), shards, "cpu", log=lambda line: None)
    start_alike(run)
    return run


def test_scenes_are_split_as_stated(shards):
    (manifest,) = read_all(shards)
    assert manifest.content["splits"]["train"] == ["clouds-000", "sea-001"]
    assert manifest.content["splits"]["val"] == ["horizon-002"]
    assert manifest.count("train", "labelled") == 12 and manifest.count("val", "targets") == 18


@pytest.mark.parametrize("arm", ARMS)
def test_runs_of_one_seed_start_with_the_same_weights_and_see_the_same_batches(shards, arm):
    host, run = started(shards, "host"), started(shards, arm)
    own = run.model.state_dict()
    biases = {"head.obj_preds.0.bias", "head.cls_preds.0.bias"} if arm == "host no prior" else set()
    for name, value in host.model.state_dict().items():
        assert torch.equal(own[name], value) == (name not in biases), name
        assert torch.equal(run.average.values[name], own[name])
    for one, other in zip(host.loader, run.loader, strict=True):
        assert one["key"] == other["key"]
    assert not torch.equal(started(shards, arm, 1).model.head.stems[0].conv.weight, own["head.stems.0.conv.weight"])


@pytest.mark.parametrize("arm", ["gils direct", "both"])
def test_shortcuts_of_one_seed_start_alike_too(shards, arm):
    own, other = started(shards, "gils").model.state_dict(), started(shards, arm).model.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_what_is_measured_are_the_averaged_weights_of_the_run(shards):
    run = started(shards, "host")
    before = {name: value.clone() for name, value in run.average.values.items()}
    run.stepper(next(iter(run.loader)), 0)
    assert run.average.updates == 1
    assert not all(torch.equal(value, before[name]) for name, value in run.average.values.items())


def test_every_parameter_is_watched_once(shards):
    run = started(shards, "both")
    watch = Watch(run)
    watched = [id(p) for parameters in watch.parts.values() for p in parameters]
    assert len(watched) == len(set(watched)) == len(list(run.model.parameters()))
    names = {id(p): name for name, p in run.model.named_parameters()}
    shortcut = {names[id(p)] for p in watch.parts["shortcut"]}
    assert shortcut == {name for name in names.values() if ".gils." in name}
    assert all(
        ".dark3." in n or ".dark4." in n or ".dark5." in n for n in (names[id(p)] for p in watch.parts["coarse"])
    )


def test_stages_are_means_of_what_was_seen(shards):
    run = started(shards, "both")
    watch, run.total = Watch(run), 200
    for step in range(200):
        run.step = step
        for parameter in run.model.parameters():
            parameter.grad = torch.full_like(parameter, float(step))
        watch.look()
    count = sum(p.numel() for p in watch.parts["rest"])
    expected = [math.sqrt(count) * (20 * stage + 5) for stage in range(10)]
    assert watch.stages()["gradient rest"] == pytest.approx(expected, rel=1e-4)
    assert watch.stages()["alpha p3"] == [0.0] * 10


def test_a_run_becomes_a_row_once(shards, tmp_path, capsys):
    trials = [Trial("s", arm, shards, SMALL | ARMS[arm]) for arm in ("host", "both")]
    rows = run_all(trials, [0], 6, tmp_path / "rows.jsonl", train)
    assert [(row["arm"], row["done_steps"], row["device"]) for row in rows] == [("host", 6, "cpu"), ("both", 6, "cpu")]
    assert rows[1]["parameters"] > rows[0]["parameters"] and 0 <= rows[0]["ap50"] <= 1
    assert "loss_dgr" in rows[1] and "loss_dgr" not in rows[0]
    assert "alpha p3" in rows[1]["stages"] and "gradient shortcut" not in rows[0]["stages"]
    assert all(value > 0 for value in rows[0]["stages"]["gradient fine"])
    capsys.readouterr()
    assert run_all(trials, [0], 6, tmp_path / "rows.jsonl", train) == rows and not capsys.readouterr().out


def test_the_interval_is_students():
    # t of 4 degrees of freedom at .975 is 2.7764; the deviation of 1..5 is sqrt(2.5).
    low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764 * math.sqrt(2.5) / math.sqrt(5)
    assert (low, high) == pytest.approx((3 - half, 3 + half), abs=1e-3)


def row(arm: str, seed: int, ap50: float) -> dict:
    stages = {"gradient fine": [1.0, 2.0]} | ({"alpha p3": [0.0, -0.5]} if "gils" in arm else {})
    values = {"precision": None, "recall": 0.5, "loss": 1.0, "stages": stages}
    return {"study": "s", "arm": arm, "seed": seed, "ap50": ap50} | values


def test_differences_are_paired_by_seed():
    host = [row("host", seed, value) for seed, value in enumerate((0.5, 0.6, 0.9))]
    gils = [row("gils", seed, value) for seed, value in enumerate((0.61, 0.7, 1.0, 0.0))]  # the last one has no partner
    dgr = [row("dgr", seed, value) for seed, value in enumerate((0.4, 0.7, 0.9))]
    direct = [row("gils direct", seed, value) for seed, value in enumerate((0.3, 0.39, 0.7))]
    lines = differences(host + gils + dgr + direct)
    found = {line.split(" | ")[0].lstrip("| "): line for line in lines[2:]}
    assert set(found) == {"gils direct - host", "gils - host", "dgr - host", "gils - gils direct"}
    assert found["gils - host"].startswith("| gils - host | 3 | +0.103 | [+0.089, +0.118] | 3 of 3 | gain |")
    assert found["gils direct - host"].endswith("| 0 of 3 | loss |")
    assert found["dgr - host"].endswith("| 1 of 3 | no difference shown |")


def test_a_host_that_did_not_learn_gives_no_conclusion():
    rows = [row(arm, seed, 0.45 + 0.01 * seed) for arm in ("host", "gils") for seed in range(3)]
    assert "No conclusion" in report(rows) and "gils - host" not in report(rows)
    better = report([r | {"ap50": r["ap50"] + 0.1} for r in rows])
    assert "No conclusion" not in better and "gils - host" in better
    assert "| gils | 0.5 ± 0 | - | 1, 2 |" in better


def test_the_halmstad_subset(tmp_path, monkeypatch):
    data = shared("").resolve()
    shared("halmstad")
    monkeypatch.setattr(ablation, "VIDEOS", ("AIRPLANE_027", "HELICOPTER_033"))
    (manifest,) = read_all(ablation.halmstad(data, tmp_path))
    assert manifest.content["splits"]["train"] == ["ir_airplane_027"]
    assert manifest.content["splits"]["val"] == ["ir_helicopter_033"]
    assert not set(ablation.VIEWS["train"]) & set(ablation.VIEWS["val"])
