"""Predictions written as files score as the model that made them; and the command that reads them."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from irstd import cli
from irstd import config as configuration
from irstd.commands import compare, evaluate, predictions
from irstd.data import exporters, sequence
from irstd.data.ingest import ingest
from irstd.data.manifest import read_all
from irstd.data.shards import build
from irstd.errors import InputError
from irstd.files import read_json
from irstd.inference import package
from irstd.inference.detector import Detector
from irstd.metrics.report import SEGMENTATION
from irstd.models import build_model
from irstd.models.contract import state
from irstd.training.loop import loader_for
from irstd.workspace import Workspace
from tests.unit.test_derive import stripped

MASKS = {"model.width": 4, "model.in_channels": 1}
BOXES = {"model.width": 0.125, "model.frames": 2}
SPLIT = "train"  # most frames, of two sizes


@pytest.fixture
def workspace(tmp_path, sample_data, sample_shards):
    root = tmp_path / "w"
    root.mkdir()
    (root / "data.dvc").touch()
    (root / "data").symlink_to(sample_data)
    (root / "shards").symlink_to(sample_shards)
    return Workspace(root, root / ".irstd")


def packaged(folder, shards, threshold, model, **overrides):
    """An untrained network: what it finds is wrong, and much."""
    torch.manual_seed(3)
    config = configuration.load(overrides=overrides | {"evaluate.threshold": threshold}, model=model)
    manifests = read_all(shards)
    lineage = {"run": "r", "sets": {m.set: m.digest for m in manifests}}
    return package.write(folder, state(build_model(config)), config, manifests, lineage, {"chosen": "last"})


@pytest.fixture(scope="module")
def segmented(sample_shards, sample_data, tmp_path_factory):
    """(threshold, numbers of `irstd evaluate MODEL`, probabilities of `Detector` by key frame) of a network for masks."""
    folder = tmp_path_factory.mktemp("segmented")
    detector = Detector(packaged(folder / "first", sample_shards, 0.5, "ggl-net", **MASKS))
    loader = loader_for(detector.package.config, sample_shards, SPLIT, read_all(sample_shards), batch_size=1)
    maps = {}
    for name in sorted({loader.windows.key(i)[0] for i in range(len(loader.windows))}):
        found = sequence.load(sample_data / name)
        for frame, each in enumerate(detector.stream(found.read(), found.bit_depth, found.intensity)):
            maps[name, frame] = each.probability_HW
    # Where a few pixels in a hundred count, and none is near.
    values = np.unique(np.concatenate([each.ravel() for each in maps.values()]))
    top = values[int(0.95 * len(values)) : int(0.99 * len(values))]
    place = int(np.diff(top).argmax())
    threshold = float((top[place] + top[place + 1]) / 2)
    made = packaged(folder / "made", sample_shards, threshold, "ggl-net", **MASKS)
    return threshold, evaluate.measured(made, sample_shards, SPLIT, ["sample"], beside=[])[1], maps


@pytest.fixture(scope="module")
def boxed(sample_shards, tmp_path_factory):
    """(numbers of `irstd evaluate MODEL`, boxes and scores by key frame) of a network for boxes."""
    made = packaged(tmp_path_factory.mktemp("boxed") / "made", sample_shards, 1e-4, "bp-fpn", **BOXES)
    model, manifests = made.model(), read_all(sample_shards)
    loader = loader_for(made.config, sample_shards, SPLIT, manifests, batch_size=1)
    found = {batch["key"][0]: model.predict(batch)[0] for batch in loader}
    assert any(len(each) for each in found.values())
    _, numbers = evaluate.measured(made, sample_shards, SPLIT, ["sample"], beside=[])
    assert numbers["protocols"][2]["hits"] > 10, "a comparison would say nothing"
    return numbers, found


def scored(workspace, place, **options):
    out = workspace.root / "numbers.json"
    given = {"threshold": None, "beside": []} | options
    predictions.run(
        workspace, Path(place), None, [], given.pop("split", SPLIT), given.pop("shards", None), out, **given
    )
    return read_json(out)


def same(found, expected):
    assert found["frames"] == expected["frames"] > 10 and found["digests"] == expected["digests"]
    assert found["bins"] == expected["bins"]
    for mine, theirs in zip(found["protocols"], expected["protocols"], strict=True):
        if mine["grid"]:
            # Resized maps have values next to the threshold, and the detector's folded network rounds otherwise.
            for name in ("iou", "niou", "fa"):
                assert mine[name] == pytest.approx(theirs[name], rel=0.01), name
            mine = mine | {name: theirs[name] for name in ("iou", "niou", "fa")}
        assert mine == theirs


def save_maps(folder, maps, save, name=lambda key: f"{key[0].partition('/')[2]}/{key[1]:06d}"):
    for key, map_HW in maps.items():
        path = folder / name(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, map_HW)
    return folder


# -- the round trip ----------------------------------------------------------------------------------------------


def test_arrays_score_as_the_model(workspace, segmented, tmp_path):
    threshold, expected, maps = segmented
    place = save_maps(tmp_path / "maps", maps, lambda path, m: np.save(f"{path}.npy", m))
    found = scored(workspace, place, threshold=threshold)
    same(found, expected)
    assert found["pd_at_fa"] == expected["pd_at_fa"]
    row = found["protocols"][0]
    assert row["hits"] + row["false_alarms"] > 10, "the comparison says nothing"
    assert found["chosen"] == "external predictions" and found["name"] == "maps"


def test_sixteen_bit_images_score_as_the_model(workspace, segmented, tmp_path):
    threshold, expected, maps = segmented
    place = save_maps(
        tmp_path / "maps", maps, lambda path, m: cv2.imwrite(f"{path}.png", np.round(m * 65535).astype(np.uint16))
    )
    found = scored(workspace, place, threshold=threshold)
    for mine, theirs in zip(found["protocols"][:2], expected["protocols"][:2], strict=True):  # the native grid
        assert mine == theirs


def test_masks_score_as_the_model(workspace, segmented, tmp_path):
    threshold, expected, maps = segmented
    for full in 1, 255:

        def save(path, map_HW, full=full):
            cv2.imwrite(f"{path}.png", full * (map_HW > threshold).astype(np.uint8))

        found = scored(workspace, save_maps(tmp_path / str(full), maps, save))
        for mine, theirs in zip(found["protocols"][:2], expected["protocols"][:2], strict=True):
            assert mine | {"threshold": threshold} == theirs


def coco_of(detections, image):
    rows = []
    for key, each in detections.items():
        for box, score in zip(each.boxes_N4.tolist(), each.scores_N.tolist(), strict=True):
            rows.append({"image_id": image(key), "category_id": 1, "bbox": box, "score": score})
    return rows


@pytest.mark.slow
def test_coco_results_score_as_the_model(workspace, boxed, sample_data, tmp_path):
    expected, detections = boxed
    exporters.export(sample_data, "sample", tmp_path / "coco", "coco")
    images = read_json(tmp_path / f"coco/annotations/instances_{SPLIT}.json")["images"]
    by_name = {image["file_name"]: image["id"] for image in images}

    def exported(key):
        return f"images/{key[0].partition('/')[2]}/{key[1]:06d}.png"

    for image in exported, lambda key: by_name[exported(key)]:
        (tmp_path / "results.json").write_text(json.dumps(coco_of(detections, image)))
        same(scored(workspace, tmp_path / "results.json", threshold=1e-4), expected)
    # Ids of another numbering, with the file that they are of.
    shuffled = [image | {"id": 1000 - image["id"]} for image in images]
    (tmp_path / "images.json").write_text(json.dumps({"images": shuffled}))
    rows = coco_of(detections, lambda key: 1000 - by_name[exported(key)])
    (tmp_path / "results.json").write_text(json.dumps(rows))
    same(scored(workspace, tmp_path / "results.json", threshold=1e-4, images=tmp_path / "images.json"), expected)
    with pytest.raises(InputError, match=r"image_id 9\d\d is none of the \d+ images"):
        scored(workspace, tmp_path / "results.json", threshold=1e-4)


def test_mot_files_score_as_the_model(workspace, boxed, tmp_path):
    expected, detections = boxed
    lines: dict[str, list[str]] = {}
    for (name, frame), each in detections.items():
        into = lines.setdefault(name.partition("/")[2], [])
        for (x, y, w, h), score in zip(each.boxes_N4.tolist(), each.scores_N.tolist(), strict=True):
            into.append(f"{frame + 1},-1,{x + 1!r},{y + 1!r},{w!r},{h!r},{score!r},-1,-1,-1\n")
    (tmp_path / "mot").mkdir()
    for name, found in lines.items():
        (tmp_path / "mot" / f"{name}.txt").write_text("".join(found))
    same(scored(workspace, tmp_path / "mot", threshold=1e-4), expected)


# -- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def perfect(sample_scenes, workspace, tmp_path):
    """The masks themselves as predictions, for the split test."""
    maps = {}
    for name in read_all(workspace.shards)[0].content["splits"]["test"]:
        for frame, mask_HW in enumerate(sample_scenes[name].masks_THW):
            maps[f"sample/{name}", frame] = mask_HW.astype(np.uint8)
    return save_maps(tmp_path / "perfect", maps, lambda path, m: cv2.imwrite(f"{path}.png", m))


def test_the_command_writes_what_a_model_s_evaluation_writes(workspace, perfect, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    out, report = tmp_path / "numbers.json", tmp_path / "report"
    command = ["evaluate", "--predictions", str(perfect), "--out", str(out), "--report", str(report)]
    assert cli.run([*command, "--name", "oracle", "data.sets=[sample]"]) == 0
    text = capsys.readouterr().out
    assert "oracle: masks of 0 and 1" in text and "checkpoint external predictions" in text and "top-hat" in text
    found = read_json(out)
    assert found["protocols"][0]["iou"] == found["protocols"][0]["pd"] == 1 and found["protocols"][0]["fa"] == 0
    assert {"report.json", "images.csv", "sequences.csv", "roc.csv", "roc.png", "gallery.html"} <= {
        p.name for p in report.iterdir()
    }
    assert '"name": "oracle"' in text.splitlines()[-1]
    # Both the file and the folder stand in tables, the baselines with them.
    compare.run(workspace, [str(out), str(report)], None, "test", None, None)
    table = capsys.readouterr().out
    assert table.count("| oracle (") == 8 and "selection external predictions" in table
    assert "top-hat (at the rate of oracle (" in table


def test_baselines_by_name(workspace, perfect, monkeypatch, tmp_path):
    pytest.importorskip("tensorly")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    found = scored(workspace, perfect, split="test", beside=["low-rank", "top-hat"])
    assert [b["method"] for b in found["baselines"]] == ["low-rank", "top-hat"]
    for baseline in found["baselines"]:
        first = baseline["protocols"][0]
        assert (first["protocol"], first["pd"], first["fa"]) == ("strict", baseline["pd"], baseline["fa"] <= 0 and 0)
        assert [(row["protocol"], row["grid"]) for row in baseline["protocols"]] == list(SEGMENTATION)
    assert not list((tmp_path / "scratch").iterdir()), "kept responses are removed"


def test_missing_predictions_are_refused_or_counted_as_empty(workspace, perfect, capsys):
    gone = sorted(perfect.rglob("*.png"))[1]
    gone.rename(perfect / "elsewhere.png")
    sequence_, frame = gone.parent.name, gone.stem
    with pytest.raises(
        InputError, match=rf"no prediction for 1 of \d+ frames of test: sample/{sequence_}/{frame}; there are 1 of no"
    ):
        scored(workspace, perfect, split="test")
    found = scored(workspace, perfect, split="test", missing="empty")
    assert found["protocols"][0]["pd"] < 1 and found["protocols"][0]["fa"] == 0
    text = capsys.readouterr().out
    assert (
        "counted as empty: 1 of" in text
        and "left out: predictions 1 of no labelled frame of test (elsewhere.png)" in text
    )


def test_maps_of_a_protocol_s_grid_are_scored_by_it_alone(workspace, perfect, capsys):
    for path in perfect.rglob("*.png"):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), cv2.resize(image, (256, 256), interpolation=cv2.INTER_NEAREST_EXACT))
    found = scored(workspace, perfect, split="test", beside=None)
    assert [(row["protocol"], row["grid"], row["iou"]) for row in found["protocols"]] == [("dnanet", 256, 1)]
    assert found["baselines"] == [] and "by dnanet (grid 256) alone" in capsys.readouterr().out
    one = sorted(perfect.rglob("*.png"))[0]
    cv2.imwrite(str(one), np.zeros((100, 90), np.uint8))
    with pytest.raises(InputError, match=r"000000.png: 100 x 90 px, and its frame has \d+ x \d+: save maps"):
        scored(workspace, perfect, split="test")


def test_a_threshold_for_a_wanted_fa(workspace, sample_shards, tmp_path):
    val = {}
    for name in read_all(sample_shards)[0].content["splits"]["val"]:
        found = sequence.load(workspace.data / "sample" / name)
        val |= {
            (f"sample/{name}", i): np.full((found.height, found.width), 0.3, np.float32) for i in range(found.frames)
        }
    place = save_maps(tmp_path / "flat", val, lambda path, m: np.save(f"{path}.npy", m))
    found = scored(workspace, place, split="val", fa=0.01)
    assert found["wanted_fa"]["threshold"] == pytest.approx(0.3) and found["wanted_fa"]["fa"] == 0
    with pytest.raises(InputError, match="chosen on val"):
        scored(workspace, place, fa=0.01)


def test_stills_by_the_names_of_their_images(tmp_path):
    """What a folder of images and masks gives, scored by the images' own names, wherever the predictions lie."""
    rng = np.random.default_rng(0)
    masks = {}
    for name in ("Misc_1", "Misc_2", "Misc_10", "Misc_11"):
        masks[name] = np.zeros((30, 40), np.uint8)
        y, x = rng.integers(3, 25, 2)
        masks[name][y : y + 3, x : x + 3] = 255
        for folder, image in ("images", rng.integers(0, 200, (30, 40)).astype(np.uint8)), ("masks", masks[name]):
            (tmp_path / "source" / folder).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(tmp_path / "source" / folder / f"{name}.png"), image)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "data.dvc").touch()
    workspace = Workspace(tmp_path / "w", tmp_path / "w" / ".irstd")
    ingest(tmp_path / "source", "stills", workspace.data, tmp_path / "staging")
    build(workspace.data, workspace.shards, configuration.ShardConfig(frames=1))
    place = tmp_path / "out" / "anywhere"
    place.mkdir(parents=True)
    for name, mask_HW in masks.items():
        cv2.imwrite(str(place / f"{name}.png"), mask_HW)
    for split in ("train", "val", "test"):
        if read_all(workspace.shards)[0].count(split, "labelled"):
            found = scored(workspace, tmp_path / "out", split=split)
            assert found["protocols"][0]["iou"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["package", "--predictions", "{place}"], "score one at a time"),
        (["--predictions", "{place}", "--missing", "emty"], "did you mean 'empty'"),
        (["--predictions", "{place}", "train.epochs=3"], "train.epochs: each prediction is scored as it is"),
        (["--predictions", "{place}", "--split", "train"], "no prediction for"),
        (["--predictions", "{place}/none"], "no such file or folder"),
        (["--predictions", "{place}", "--baselines", "top-hut"], "did you mean 'top-hat'"),
        (["--predictions", "{place}", "--threshold", "1"], "--threshold 1: a pixel is predicted above the threshold"),
        (["--predictions", "{place}", "--threshold", "nan"], "--threshold nan: "),
        ([], "nothing to evaluate"),
        (["package", "--threshold", ".3"], "--threshold: is of --predictions"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, list) else "",
)
def test_bad_usage_is_one_line(workspace, perfect, monkeypatch, capsys, options, message):
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert cli.run(["evaluate", *(option.format(place=perfect) for option in options)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_maps_need_masks(sample_source, tmp_path, perfect, workspace):
    ingest(stripped(sample_source, tmp_path / "source", "boxes"), "sample", tmp_path / "d", tmp_path / "staging")
    build(tmp_path / "d", tmp_path / "s", configuration.ShardConfig(frames=1))
    with pytest.raises(InputError, match="has no masks to score .* against"):
        scored(workspace, perfect, split="test", shards=str(tmp_path / "s"), missing="empty")
