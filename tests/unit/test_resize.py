"""Resizing on the device: where pixels, masks and boxes go, and that they come back to where they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from irstd import config as configuration
from irstd.data.gradient import gradient_magnitude
from irstd.data.loader import ClipLoader
from irstd.data.manifest import read_all
from irstd.inference import package
from irstd.inference.detector import Detector
from irstd.models import build_model
from irstd.models.batch import to_device
from irstd.models.contract import SegmentationModel, state
from irstd.models.resize import Placement, Resize, resampled
from irstd.training import loop
from irstd.training.evaluation import measure

OFFSET, SCALE = 7000.0, 1 / 256  # x is exact in float32
INTERPOLATIONS = ("bilinear", "bicubic", "area", "nearest")
# Larger and smaller than 64, odd, long and thin.
SIZES = [(48, 80), (128, 96), (31, 17), (64, 64), (5, 200)]


def resize(text: str, interpolation: str = "bilinear", operator: str | None = "central") -> Resize:
    values = {"data.resize": text, "data.interpolation": interpolation}
    return Resize.of(configuration.load(overrides=values).data, operator)


def batch_of(frames: list[np.ndarray], masks: list[np.ndarray] | None = None, padding: int = 0) -> dict:
    """Frames of counts, padded with `padding` into one batch as the loader does with zeros."""
    sizes = [f.shape for f in frames]
    height, width = (max(s[i] for s in sizes) for i in (0, 1))
    counts = np.full((len(frames), 1, height, width), padding, np.uint16)
    marks = np.full((len(frames), height, width), min(padding, 1), np.uint8)
    for b, frame in enumerate(frames):
        counts[b, 0, : frame.shape[0], : frame.shape[1]] = frame
        if masks:
            marks[b, : frame.shape[0], : frame.shape[1]] = masks[b]
    found = {
        "frames": counts,
        "offset": np.full(len(frames), OFFSET, np.float32),
        "scale": np.full(len(frames), SCALE, np.float32),
        "size": np.array(sizes, np.int64),
        "boxes": [np.array([[0, 0, w, h]], np.float32) for h, w in sizes],
        "key": [("s/q", b) for b in range(len(frames))],
    }
    return to_device(found | ({"masks": marks} if masks else {}), "cpu")


def noise(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(seed)
    return (
        [random.integers(7000, 7256, size, dtype=np.uint16) for size in SIZES],
        [(random.random(size) < 0.02).astype(np.uint8) for size in SIZES],
    )


def test_native_is_the_very_batch():
    given = batch_of(*noise())
    found, placements = resize("native")(given)
    assert found is given and [p.placed for p in placements] == SIZES


@pytest.mark.parametrize(
    ("text", "size", "placed"),
    [
        ("letterbox:512", (512, 640), (410, 512)),
        ("letterbox:512", (1024, 1024), (512, 512)),
        ("letterbox:512", (97, 61), (512, 322)),
        ("letterbox:512", (1, 2000), (1, 512)),
        ("stretch:512", (512, 640), (512, 512)),
        ("stretch:256", (3, 7), (256, 256)),
    ],
)
def test_where_a_frame_goes(text, size, placed):
    assert resize(text).placement(*size) == Placement(size, placed)


@pytest.mark.parametrize("text", ["letterbox:64", "stretch:64"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_many_sizes_in_one_batch_are_as_alone(text, interpolation):
    """Neither the others nor the padding have a part in what becomes of a key frame, to the bit."""
    frames, masks = noise()
    together, placements = resize(text, interpolation)(batch_of(frames, masks, padding=60000))
    for b, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        alone, (placement,) = resize(text, interpolation)(batch_of([frame], [mask]))
        assert placement == placements[b]
        assert together["size"][b].tolist() == list(placement.placed)
        for name in ("frames", "gradient", "masks"):
            assert together[name].shape[-2:] == (64, 64)
            assert torch.equal(together[name][b], alone[name][0]), name
        h, w = placement.placed
        assert not together["masks"][b, h:].any() and not together["masks"][b, :, w:].any()
        assert together["boxes"][b].tolist() == [[0, 0, w, h]]  # the frame's own edges


@pytest.mark.parametrize("operator", ["central", "scharr"])
def test_the_gradient_is_that_of_the_resized_frame(operator):
    """Taken before the padding with a replicated border, so no ring around the frame."""
    frames, _ = noise()
    found, placements = resize("letterbox:64", operator=operator)(batch_of(frames))
    for b, placement in enumerate(placements):
        h, w = placement.placed
        x_HW = found["frames"][b, 0, :h, :w].numpy()
        expected = gradient_magnitude(x_HW, operator, "replicate")
        np.testing.assert_allclose(found["gradient"][b, :h, :w], expected, atol=1e-6)
    flat, _ = resize("letterbox:64")(batch_of([np.full((48, 80), 7100, np.uint16)]))
    assert flat["gradient"].abs().max() < 1e-5


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("size", "text"), [((97, 61), "letterbox:512"), ((250, 321), "letterbox:200"), ((75, 64), "stretch:101")]
)
def test_centroids_are_not_moved(size, text, interpolation):
    """A spot's centroid goes where the factors say, with pixel centres at .5: no half pixel lost at any size."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    for y, x in ((size[0] * 0.4, size[1] * 0.6), (size[0] / 2, size[1] / 2)):
        spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 4.0**2))
        counts = (7000 + 20000 * spot).round().astype(np.uint16)
        made = resize(text, interpolation)
        found, (placement,) = made(batch_of([counts]))
        h, w = placement.placed
        weight = found["frames"][0, 0, :h, :w].double().numpy()
        at_rows, at_columns = np.mgrid[:h, :w] + 0.5
        tolerance = 0.25 if interpolation in ("nearest", "area") else 0.02  # whole pixels are taken there
        assert (weight * at_rows).sum() / weight.sum() / h * size[0] == pytest.approx(y, abs=tolerance)
        assert (weight * at_columns).sum() / weight.sum() / w * size[1] == pytest.approx(x, abs=tolerance)


@pytest.mark.parametrize(("length", "size"), [(1024, 512), (640, 512), (513, 512), (1000, 17), (512, 512), (61, 512)])
def test_no_pixel_of_a_mask_is_ever_lost(length, size):
    """Each row is a mask with one pixel, at every place there is."""
    found = resampled(torch.eye(length, dtype=torch.uint8), (length, size))
    assert found.dtype == torch.uint8 and found.max() == 1
    assert found.sum(1).min() >= 1
    assert (found.sum(0) >= 1).all()  # and no hole is torn into what was whole
    if size <= length:  # where its centre is, and there alone
        assert found.argmax(1).tolist() == [(2 * j + 1) * size // (2 * length) for j in range(length)]
        assert found.sum(1).max() == 1
    back = resampled(found, (length, length))
    assert (back.diagonal() == 1).all()


def test_a_target_of_one_pixel_survives_letterbox_512_of_1024():
    frame, mask = np.full((768, 1024), 7000, np.uint16), np.zeros((768, 1024), np.uint8)
    mask[301, 777] = 1
    found, (placement,) = resize("letterbox:512")(batch_of([frame], [mask]))
    assert found["masks"][0].sum() == 1 and found["masks"][0, 150, 388] == 1
    back = placement.back(found["masks"][0].numpy())
    assert back.shape == (768, 1024) and back[301, 777] == 1 and back.sum() == 4


@pytest.mark.parametrize("text", ["letterbox:512", "stretch:512"])
def test_boxes_come_back_to_a_fraction_of_a_pixel(text):
    random = np.random.default_rng(1)
    for height, width in (*SIZES, (512, 640), (1023, 767)):
        placement = resize(text).placement(height, width)
        boxes = (random.random((20, 4)) * [width, height, width / 4, height / 4]).astype(np.float32)
        there = placement.boxes(boxes)
        assert there.dtype == np.float32
        np.testing.assert_allclose(placement.boxes_back(there), boxes, atol=1e-3)
        # Edges lie at the same share of the frame.
        np.testing.assert_allclose(there[:, 0] / placement.placed[1], boxes[:, 0] / width, rtol=1e-6)
        np.testing.assert_allclose(
            (there[:, 1] + there[:, 3]) / placement.placed[0], (boxes[:, 1] + boxes[:, 3]) / height, rtol=1e-6
        )


class Bright(SegmentationModel):
    """Marks what is brighter than x = 10: a network whose answer is known beforehand."""

    takes_gradient = False

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(10.0))

    def forward(self, image_B1HW, gradient_B1HW=None):
        return image_B1HW - self.level


# Largest error in original pixels, of boxes and of masks' centroids. Area and nearest take whole pixels, as those who
# choose them know.
@pytest.mark.parametrize(
    ("interpolation", "box", "mask"),
    [("bilinear", 0.51, 0.55), ("bicubic", 0.51, 0.7), ("area", 0.85, 0.75), ("nearest", 1.0, 0.9)],
)
@pytest.mark.parametrize("text", ["letterbox:160", "stretch:160"])
def test_a_spot_is_found_where_it_is(text, interpolation, box, mask):
    """Frames that shrink to half and frames that grow, in one batch; the answer is in original pixels."""
    model = Bright()
    model.resize = resize(text, interpolation, None)
    random = np.random.default_rng(2)
    sizes = [(160, 200), (97, 61), (161, 160), (200, 320), (131, 150)] * 8
    places = [(random.uniform(15, h - 15), random.uniform(15, w - 15)) for h, w in sizes]
    frames = []
    for (h, w), (y, x) in zip(sizes, places, strict=True):
        rows, columns = np.mgrid[:h, :w] + 0.5
        spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 3.0**2))
        frames.append((OFFSET + 20 / SCALE * spot).round().astype(np.uint16))
    boxes, masks = [], []
    for found, (h, w), place in zip(model.predict(batch_of(frames)), sizes, places, strict=True):
        assert found.probability_HW.shape == found.mask_HW.shape == (h, w) and len(found) == 1
        assert found.probability_HW.max() <= 1 and found.mask_HW.dtype == np.uint8
        assert np.array_equal(found.mask_HW, found.probability_HW > model.threshold)
        left, top, width, height = found.boxes_N4[0]
        boxes.append((top + height / 2 - place[0], left + width / 2 - place[1]))
        masks.append(np.argwhere(found.mask_HW).mean(0) + 0.5 - place)
    assert np.abs(boxes).max() < box and np.abs(masks).max() < mask
    if interpolation != "nearest":
        assert np.abs(np.mean(boxes, axis=0)).max() < 0.15  # to no side


CONFIG = {"model.width": 4, "model.in_channels": 1, "train.batch": 4, "train.epochs": 1, "train.lr": 2e-3}


@pytest.fixture(scope="module")
def trained(sample_shards, tmp_path_factory):
    """An epoch over frames of two sizes, resized, and its package."""
    config = configuration.load(overrides=CONFIG | {"data.resize": "letterbox:32", "data.interpolation": "bicubic"})
    reports = []
    run = loop.Run(config, sample_shards, "cpu", lambda line: None)
    run.go(lambda metrics, folder: reports.append(metrics))
    folder = tmp_path_factory.mktemp("package") / "p"
    manifests = read_all(sample_shards)
    return run, reports, package.write(folder, state(run.model), config, manifests, lineage={}, metrics={})


def test_training_takes_resized_frames_and_measures_on_the_native_grid(trained, sample_shards):
    run, reports, _ = trained
    assert np.isfinite(reports[0]["loss"]) and reports[0]["val_fa"] is not None
    assert run.loader.gradient is False  # the stored map is not that of the resized frame
    pixels = sum(int(np.prod(b["size"][0])) for b in run.val)
    measured = measure(run.model, run.val, run.config.evaluate)
    assert measured.compute()["pixels"] == pixels


def test_a_package_detects_as_the_model_did(trained, sample_shards):
    """The setting travels with the package: loader and detector, counts of one frame, the same probabilities."""
    run, _, made = trained
    detector = Detector(package.Package.read(made.folder))
    assert detector.model.resize == Resize("letterbox", 32, "bicubic", "central")
    run.model.eval()
    for batch in ClipLoader(sample_shards, "val", frames=1, batch_size=1):
        (expected,) = run.model.predict(batch)
        h, w = batch["size"][0]
        assert expected.probability_HW.shape == (h, w)
        moved = {name: batch[name] for name in ("frames", "offset", "scale", "size")}
        (found,) = detector.model.predict(moved)
        np.testing.assert_allclose(found.probability_HW, expected.probability_HW, atol=1e-5)  # folded
    frames_THW = np.concatenate([batch["frames"][:, 0]] * 3)
    assert [d.mask_HW.shape for d in detector(frames_THW, 14)] == [(h, w)] * 3


def test_it_is_part_of_what_a_run_is():
    native = configuration.load()
    assert "resize" not in native.identity()["data"] and "interpolation" not in native.identity()["data"]
    names = [
        configuration.load(overrides={"data.resize": text, "data.interpolation": how}).identity()
        for text in ("letterbox:512", "stretch:512", "stretch:256")
        for how in ("bilinear", "area")
    ]
    assert all(names.count(one) == 1 and one != native.identity() for one in names)
    # Nothing is interpolated: the same run.
    assert configuration.load(overrides={"data.interpolation": "area"}).identity() == native.identity()


def test_a_native_network_computes_what_it_did():
    """Frames in counts, at their own offset and scale, reach the network without a detour."""
    torch.manual_seed(0)
    model = build_model(configuration.load(overrides={"model.width": 4})).eval()
    frames, masks = noise()
    given = batch_of(frames, masks)
    with torch.no_grad():
        for frame, found in zip(frames, model.predict(given), strict=True):
            x = (torch.from_numpy(frame.astype(np.int32)).float() - OFFSET) * SCALE
            expected = torch.sigmoid(model(x[None, None]))[0, 0].numpy()
            np.testing.assert_array_equal(found.probability_HW, expected)
