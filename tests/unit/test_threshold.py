"""The threshold for a wanted rate of false alarms: chosen on val, kept in the package, no part of a run's identity."""

from __future__ import annotations

import json

import numpy as np
import pytest
from runs import trained

from irstd import config as configuration
from irstd.commands import frames, train
from irstd.commands.show import measured_as
from irstd.data.manifest import read_all
from irstd.errors import InputError
from irstd.files import sha256_file
from irstd.inference.package import Package
from irstd.metrics import DetectionMetrics, SegmentationMetrics, lowest_box_threshold
from irstd.registry import lineage
from irstd.training import loop
from irstd.workspace import Workspace

TINY = {"model.width": 4, "model.in_channels": 1, "data.crop": 32, "train.batch": 4, "train.epochs": 1}
BOXES = {"model.name": "bp-fpn", "model.width": 0.0625, "model.frames": 3, "train.batch": 4, "train.epochs": 1}


@pytest.fixture(scope="module")
def workspace(sample_shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("threshold")
    (root / "data.dvc").touch()
    (root / "shards").symlink_to(sample_shards)
    return Workspace(root, root / ".irstd")


def config(base, **more):
    return configuration.load(overrides=base | {f"evaluate.{k}": v for k, v in more.items()})


@pytest.fixture(scope="module")
def masks(workspace):
    return trained(workspace, config(TINY))


@pytest.fixture(scope="module")
def boxes(workspace):
    return trained(workspace, config(BOXES))


def written(workspace, run, base, **more):
    """The package that the finished run gives under other options of `evaluate`."""
    job = train.prepare(config(base, **more), workspace.shards)
    assert job.name == run[0].name  # nothing is trained again
    return Package.read(train.write_package(workspace, job, run[1]))


def val(package, shards):
    return loop.loader_for(package.config, shards, "val", read_all(shards), batch_size=1)


def test_a_wanted_fa_gives_the_model_its_threshold(workspace, masks, capsys):
    package = written(workspace, masks, TINY, wanted_fa=0.01)
    chosen, (manifest,) = package.content["threshold_chosen"], read_all(workspace.shards)
    assert chosen["wanted"] == 0.01 and chosen["split"] == "val" and chosen["digests"] == {"sample": manifest.digest}
    assert (chosen["protocol"], chosen["grid"]) == ("strict", None)
    assert package.content["threshold"] == chosen["threshold"] == package.model().threshold != 0.5
    # What it says is what the model does on val at that threshold; just below, Fa is above.
    model, found = package.model(), []
    maps = [(model.predict(b)[0].probability_HW, frames.mask_of(b)) for b in val(package, workspace.shards)]
    for threshold in (chosen["threshold"], np.nextafter(np.float32(chosen["threshold"]), np.float32(0))):
        metrics = SegmentationMetrics("strict", float(threshold))
        for pair in maps:
            metrics.update(*pair)
        found.append(metrics.compute())
    assert found[0]["fa"] == chosen["fa"] <= 0.01 < found[1]["fa"] and found[0]["pd"] == chosen["pd"]
    printed = capsys.readouterr().out
    assert (
        "never exceeds 0.01 on val of sample" in printed and f"{manifest.digest[:12]} (strict, grid native)" in printed
    )
    assert dict(lineage.chain(package, None))["threshold"].startswith(f"{chosen['threshold']:.6g} is the lowest")
    # The numbers that chose the checkpoint are still those of the threshold that they were measured at.
    assert package.content["metrics"]["threshold"] == 0.5


def test_the_same_choice_is_not_made_twice(workspace, masks, monkeypatch):
    first = written(workspace, masks, TINY, wanted_fa=0.02).content["threshold_chosen"]
    monkeypatch.setattr("irstd.commands.threshold.of_maps", None)
    assert written(workspace, masks, TINY, wanted_fa=0.02).content["threshold_chosen"] == first
    plain = written(workspace, masks, TINY)
    assert plain.content["threshold"] == 0.5 and "threshold_chosen" not in plain.content


def test_a_val_that_is_too_small_keeps_the_threshold_and_the_training(workspace, masks, capsys):
    package = written(workspace, masks, TINY, wanted_fa=1e-7)
    assert package.content["threshold"] == 0.5
    assert "too little to tell: Fa 1e-07 needs 1e+08 pixels" in package.content["threshold_chosen"]["kept"]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("threshold: ")]
    assert "0.5 is kept" in line and "too little to tell" in line
    assert sha256_file(package.folder / "weights.safetensors") == package.content["lineage"]["weights_sha256"]


def test_boxes_have_a_wanted_number_of_false_alarms(workspace, boxes, capsys):
    frames_of_val = sum(m.count("val", "labelled") for m in read_all(workspace.shards))
    rate = 12 / frames_of_val
    package = written(workspace, boxes, BOXES, wanted_false_alarms=rate)
    chosen, model = package.content["threshold_chosen"], package.model()
    metrics = DetectionMetrics("strict", chosen["threshold"])
    for batch in val(package, workspace.shards):
        found = model.predict(batch)[0]
        metrics.update(found.boxes_N4, found.scores_N, batch["boxes"][0])
    row = metrics.compute()
    assert (
        row["false_alarms_per_frame"] == chosen["false_alarms_per_frame"] <= rate and row["recall"] == chosen["recall"]
    )
    assert f"false alarms a frame never exceeds {rate:g} on val" in capsys.readouterr().out
    few = written(workspace, boxes, BOXES, wanted_false_alarms=9 / frames_of_val)
    assert few.content["threshold"] == 0.5 and "too little to tell" in few.content["threshold_chosen"]["kept"]


def test_the_threshold_of_boxes_is_exact():
    """By hand: false alarms score 9, 7, 7 and 3, targets are hit at 8 and 5, in forty frames."""
    metrics = DetectionMetrics("strict")
    box, far = [10.0, 10, 4, 4], [50.0, 50, 4, 4]
    for hit, alarms in [(8, [9]), (None, [7, 7]), (5, []), (None, [3]), *[(None, [])] * 36]:
        boxes = [box] * (hit is not None) + [far] * len(alarms)
        scores = [hit] * (hit is not None) + alarms
        metrics.update(np.array(boxes), np.array(scores, float), np.array([box] if hit else []))
    assert lowest_box_threshold(metrics, 0.26) == (np.nextafter(np.float32(3), np.float32(0)), 1, 0.1)
    with pytest.raises(
        InputError, match=r"too little to tell: 0.2 false alarms a frame need 50 frames, and there are 40"
    ):
        lowest_box_threshold(metrics, 0.2)


@pytest.mark.parametrize(
    ("base", "more", "words"),
    [
        (TINY, {"wanted_false_alarms": 1}, ["counts boxes", "evaluate.wanted_fa"]),
        (BOXES, {"wanted_fa": 1e-5}, ["counts pixels of masks", "evaluate.wanted_false_alarms"]),
        (TINY, {"wanted_fa": 10}, ["evaluate.wanted_fa=10"]),
    ],
)
def test_a_rate_that_the_network_has_not_is_refused(base, more, words):
    with pytest.raises(InputError) as caught:
        config(base, **more)
    assert all(word in str(caught.value) for word in words)


def test_where_a_run_computed_is_recorded_and_is_not_its_identity(workspace, masks):
    job, record = masks
    (place,) = record["lineage"]["workers"]
    assert place["workers"] == 1 and place["device"] == "cpu" and place["threads"] >= 1
    assert "workers" not in json.dumps(job.identity.content)
    shown = dict(lineage.chain(written(workspace, masks, TINY), None))
    assert shown["trained on"].startswith("1 worker(s) on cpu")
    assert "threshold 0.5" in measured_as("strict", None, 0.5, "val", {"sample": "a" * 64})
