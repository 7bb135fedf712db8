"""Pseudo-masks and derived boxes: by the pixel, through the shards into the loader, and no IoU from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from irstd import config as configuration
from irstd.config import DeriveConfig, ShardConfig
from irstd.data import shards
from irstd.data.derive import boxes_around, pseudo_mask
from irstd.data.ingest import ingest
from irstd.data.loader import ClipLoader
from irstd.data.manifest import Manifest, pseudo_masks, read_all
from irstd.data.regions import cut
from irstd.data.sequence import sequences
from irstd.models import build_model
from irstd.models.batch import to_device
from irstd.training import loop
from irstd.training.evaluation import reported
from tests.conftest import UNLABELLED


def drawn(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows], np.uint8)


def test_a_box_fills_the_pixels_whose_centres_it_holds() -> None:
    frame = np.zeros((4, 6), np.uint8)
    np.testing.assert_array_equal(
        pseudo_mask(frame, [[1, 1, 2, 2], [4.6, 0, 1.4, 1]], "box"), drawn(".....#", ".##...", ".##...", "......")
    )
    # Less than a pixel, and over the frame's edge.
    np.testing.assert_array_equal(
        pseudo_mask(frame, [[2.1, 2.1, 0.2, 0.2], [-3, -3, 3.3, 3.3]], "box"),
        drawn("#.....", "......", "..#...", "......"),
    )
    assert not pseudo_mask(frame, np.zeros((0, 4)), "box").any()


def test_an_ellipse_is_inscribed() -> None:
    found = pseudo_mask(np.zeros((7, 9), np.uint16), [[1, 1, 7, 5]], "ellipse")
    expected = drawn(".........", "..#####..", ".#######.", ".#######.", ".#######.", "..#####..", ".........")
    np.testing.assert_array_equal(found, expected)
    assert pseudo_mask(np.zeros((50, 50), np.uint8), [[5, 5, 40, 30]], "ellipse").sum() == pytest.approx(
        np.pi * 20 * 15, rel=0.02
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_half_maximum_follows_the_target(sign: int) -> None:
    rows, columns = np.mgrid[:40, :50]
    background = 3000 + 4 * np.sin(rows / 9)
    blob = 200 * np.exp(-((rows - 18) ** 2 / (2 * 1.5**2) + (columns - 24) ** 2 / (2 * 3.0**2)))
    frame = np.rint(background + sign * blob).astype(np.uint16)
    frame[14, 31] = 3000 + sign * 190  # as high, in the box, and not part of it
    found = pseudo_mask(frame, [[15, 11, 19, 15]], "half-maximum")
    half = blob >= 100
    assert (found != half).sum() <= 4 and found[18, 24] and not found[14, 31]
    # Nothing stands out: the ellipse; and the box that is the frame has no background.
    flat = np.full((9, 9), 7, np.uint8)
    for box in ([[2, 2, 5, 5]], [[0, 0, 9, 9]]):
        np.testing.assert_array_equal(pseudo_mask(flat, box, "half-maximum"), pseudo_mask(flat, box, "ellipse"))


def test_boxes_around_points() -> None:
    # The pixel (i, j) = (4, 2) has its centre at x = 2.5, y = 4.5.
    assert boxes_around([[2, 4]], 1).tolist() == [[2, 4, 1, 1]]
    assert boxes_around([[2, 4], [0, 0]], 5).tolist() == [[0, 2, 5, 5], [-2, -2, 5, 5]]
    assert boxes_around(np.zeros((0, 2)), 3).shape == (0, 4)


def stripped(source: Path, folder: Path, *keep: str) -> Path:
    """The recordings of the sample with only some of what their labels say."""
    shutil.copytree(source, folder)
    for path in folder.glob("*.annotations.json"):
        tree = json.loads(path.read_text())
        tree["masks"] = "mask" in keep
        for frame in tree["frames"]:
            for name in {"boxes", "classes", "points", "mask"} - {*keep}:
                frame.pop(name, None)
        path.write_text(json.dumps(tree))
    return folder


def built(data: Path, out: Path, **derive) -> Manifest:
    shards.build(data, out, ShardConfig(frames=5, chunk=4, derive=DeriveConfig(**derive)))
    return Manifest.read(out / "sample")


@pytest.fixture(scope="module")
def boxes_only(sample_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    ingest(
        stripped(sample_source, folder / "source", "boxes", "classes"), "sample", folder / "data", folder / "staging"
    )
    return folder / "data"


@pytest.fixture(scope="module")
def pseudo(boxes_only: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a set of boxes, with pseudo-masks."""
    out = tmp_path_factory.mktemp("pseudo") / "shards"
    built(boxes_only, out, masks="half-maximum")
    return out


@pytest.mark.parametrize("method", ["box", "ellipse", "half-maximum"])
def test_masks_from_boxes_reach_the_batch(boxes_only, sample_scenes, tmp_path, method) -> None:
    manifest = built(boxes_only, tmp_path / "shards", masks=method)
    assert manifest.content["derived"] == {"masks": method}
    assert pseudo_masks([manifest], "train") == method
    for split in ("train", "val", "test"):
        loader = ClipLoader(tmp_path / "shards", split, batch_size=1)
        assert loader.masks and loader.pseudo_masks == method
        for batch in loader:
            (name, index), (h, w) = batch["key"][0], batch["size"][0]
            expected = pseudo_mask(batch["frames"][0, -1, :h, :w], batch["boxes"][0], method)
            np.testing.assert_array_equal(batch["masks"][0, :h, :w], expected)
            # What is made lies over what is there.
            true = sample_scenes[name.removeprefix("sample/")].masks_THW[index]
            assert not true.any() or (expected & true).sum() > 0.4 * true.sum()


def test_without_derivation_nothing_is_made(boxes_only, sample_source, sample_shards, tmp_path) -> None:
    manifest = built(boxes_only, tmp_path / "shards")
    assert manifest.content["derived"] == {} and pseudo_masks([manifest], "train") is None
    assert not ClipLoader(tmp_path / "shards", "train", batch_size=1).masks
    # Where there are masks they stay, whatever is asked for.
    data = tmp_path / "data"
    ingest(sample_source, "sample", data, tmp_path / "staging")
    asked = built(data, tmp_path / "other", masks="box", point_size=3)
    assert asked.digest == Manifest.read(sample_shards / "sample").digest and asked.content["derived"] == {}


def test_another_method_is_another_digest(boxes_only, tmp_path) -> None:
    found = {
        method: built(boxes_only, tmp_path / "shards", masks=method).digest for method in ("none", "box", "ellipse")
    }
    assert len({*found.values()}) == 3
    assert built(boxes_only, tmp_path / "afresh", masks="box").digest == found["box"]


def test_boxes_from_masks_and_from_points_reach_the_batch(sample_source, sample_scenes, tmp_path) -> None:
    for keep in ("mask", "points"):
        source = stripped(sample_source, tmp_path / keep, keep)
        ingest(source, "sample", tmp_path / f"data-{keep}", tmp_path / "staging")
        manifest = built(tmp_path / f"data-{keep}", tmp_path / f"shards-{keep}", point_size=3)
        derived = {"boxes_from_masks": "components"} if keep == "mask" else {"boxes_from_points": 3.0}
        assert manifest.content["derived"] == derived
        count = 0
        for batch in ClipLoader(tmp_path / f"shards-{keep}", "train", batch_size=1):
            name, index = batch["key"][0]
            scene = sample_scenes[name.removeprefix("sample/")]
            if keep == "points":
                # In training a box that reaches beyond the frame is cut at its border.
                expected = cut(boxes_around(scene.points[index].round(4), 3), 0, 0, *scene.frames_THW.shape[1:])
                np.testing.assert_allclose(batch["boxes"][0], expected, atol=1e-5)
            else:
                assert batch["boxes"][0].any() == scene.masks_THW[index].any()
                for x, y, w, h in batch["boxes"][0].astype(int):
                    assert scene.masks_THW[index][y : y + h, x : x + w].any()
            count += len(batch["boxes"][0])
        assert count > 20


def test_points_become_masks_through_their_boxes(sample_source, tmp_path) -> None:
    ingest(stripped(sample_source, tmp_path / "source", "points"), "sample", tmp_path / "data", tmp_path / "staging")
    manifest = built(tmp_path / "data", tmp_path / "shards", masks="ellipse", point_size=3)
    assert manifest.content["derived"] == {"masks": "ellipse", "boxes_from_points": 3.0}
    batch = next(iter(ClipLoader(tmp_path / "shards", "train", batch_size=1)))
    assert 0 < batch["masks"].sum() <= 9 * max(1, len(batch["boxes"][0]))


def test_unlabelled_frames_stay_unknown(pseudo, boxes_only) -> None:
    assert UNLABELLED in {item.name for item in sequences(boxes_only, "sample")}
    assert UNLABELLED not in Manifest.read(pseudo / "sample").content["sequences"]


def test_ggl_net_trains_on_pseudo_masks_and_reports_no_iou(pseudo, tmp_path) -> None:
    config = configuration.load(
        overrides={"model.width": 4, "model.in_channels": 1, "data.crop": 32, "train.batch": 4, "train.epochs": 1}
    )
    batch = next(iter(loop.loader_for(config, pseudo, "train", read_all(pseudo), batch_size=4)))
    loss, _ = build_model(config).loss(to_device(batch, "cpu"))
    assert loss.isfinite()
    kept, lines = [], []

    def report(metrics, folder):
        kept.append((metrics, json.loads((folder / "state.json").read_text())))

    loop.fit(config, pseudo, report, log=lines.append)
    metrics, state = kept[-1]
    assert metrics["val_iou"] is None and metrics["val_niou"] is None
    assert metrics["val_pd"] is not None and metrics["val_fa"] is not None
    # Agreement with the pseudo-masks chose the checkpoint; it is not among the numbers that go on with the model.
    assert state["best"]["chosen"] == "val-best" and state["selected"] is not None
    assert not {"value", "iou"} & {*state["best"]} and state["best"]["val_iou"] is None
    assert "val IoU -" in lines[-1]


def test_reported() -> None:
    found = {"iou": 0.5, "niou": 0.4, "pd": 0.9, "fa": 1e-6}
    assert reported(found, None) == found
    assert reported(found, "ellipse") == {
        "iou": None,
        "niou": None,
        "pd": 0.9,
        "fa": 1e-6,
        "withheld": "no IoU: the masks are pseudo-masks (ellipse)",
    }
