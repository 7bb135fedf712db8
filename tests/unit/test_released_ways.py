"""Switches with which released code can be followed: a grey letterbox, boxes of whole pixels, frame weights that stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from runs import Keeper

from irstd import config as configuration
from irstd.data.manifest import read_all
from irstd.errors import InputError
from irstd.models import build_model
from irstd.models.bp_fpn import BPFPN
from irstd.models.bp_fpn.head import STRIDE
from irstd.models.contract import SegmentationModel
from irstd.models.resize import Placement, Resize
from irstd.training import loop

SIZES = [(48, 80), (128, 96), (64, 64), (31, 17), (50, 90)]
CENTRE = {"data.resize": "letterbox:64", "data.interpolation": "bicubic", "data.letterbox": "centre"}


def centred(operator=None, **more) -> Resize:
    return Resize.of(configuration.load(overrides=CENTRE | more).data, operator)


def batch_of(frames: list[np.ndarray], boxes: list[list] | None = None) -> dict:
    height, width = (max(f.shape[i] for f in frames) for i in (0, 1))
    counts = np.zeros((len(frames), 1, height, width), np.uint8)
    for b, frame in enumerate(frames):
        counts[b, 0, : frame.shape[0], : frame.shape[1]] = frame
    return {
        "frames": torch.from_numpy(counts),
        "offset": torch.zeros(len(frames)),
        "scale": torch.full((len(frames),), 1 / 255),
        "size": torch.tensor([f.shape for f in frames]),
        "boxes": [np.array(each, np.float32).reshape(-1, 4) for each in boxes or [[]] * len(frames)],
        "key": [("s/q", b) for b in range(len(frames))],
    }


@pytest.mark.parametrize("size", SIZES)
def test_a_centred_letterbox_is_what_pillow_pastes_into_grey(size):
    height, width = size
    # Smooth, so that Pillow's eight bits clip nothing.
    rows, columns = np.mgrid[:height, :width]
    frame = np.rint(120 + 60 * np.sin(rows / 5) * np.cos(columns / 7)).astype(np.uint8)
    factor = min(64 / width, 64 / height)
    inside = int(width * factor), int(height * factor)
    at = (64 - inside[0]) // 2, (64 - inside[1]) // 2
    wanted = Image.new("L", (64, 64), 128)
    wanted.paste(Image.fromarray(frame).resize(inside, Image.Resampling.BICUBIC), at)

    found, (placement,) = centred()(batch_of([frame]))
    assert (placement.placed, placement.origin) == (inside[::-1], at[::-1])
    assert found["size"].tolist() == [[64, 64]]  # grey is a part of the picture
    # Pillow rounds to whole counts after each of its two passes.
    np.testing.assert_allclose(found["frames"][0, 0].numpy() * 255, np.asarray(wanted), atol=1.1)


def test_boxes_go_into_the_middle_and_come_back():
    random = np.random.default_rng(0)
    for height, width in SIZES:
        placement = centred().placement(height, width)
        boxes = random.uniform(1, 8, (5, 4)).astype(np.float32)
        there = placement.boxes(boxes)
        top, left = placement.origin
        np.testing.assert_allclose(placement.boxes_back(there - [left, top, 0, 0]), boxes, atol=1e-4)
        factor = placement.placed[1] / width
        np.testing.assert_allclose(there[:, 0], boxes[:, 0] * factor + left, rtol=1e-5)


def test_maps_come_back_from_the_middle():
    """What is found at a pixel's place in the grey letterbox is found at the pixel."""

    class Bright(SegmentationModel):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, image_B1HW, gradient_B1HW=None):
            return (image_B1HW - 0.9) * 1000 * self.weight

    frame = np.full((20, 40), 60, np.uint8)
    frame[6:8, 30:33] = 255
    model = Bright()
    model.resize = Resize.of(
        configuration.load(overrides=CENTRE | {"data.resize": "letterbox:80", "data.interpolation": "nearest"}).data,
        None,
    )
    (found,) = model.predict(batch_of([frame]))
    assert found.mask_HW.shape == (20, 40) and np.array_equal(found.mask_HW, (frame == 255).astype(np.uint8))
    np.testing.assert_allclose(found.boxes_N4, [[30, 6, 3, 2]], atol=1e-4)


def test_boxes_of_a_network_come_back_from_the_middle():
    network = BPFPN(frames=1, width=0.0625)
    placement = Placement((20, 40), (32, 64), (16, 0))
    raw = torch.zeros(1, 6, 8, 8)
    raw[:, 4:] = -20
    for row, column in ((4, 3), (0, 5)):  # within the frame's part, and in the grey above it
        raw[0, 4:, row, column] = 20
        raw[0, 2:4, row, column] = float(np.log(0.5))
    (found,) = network.decoded(raw, [placement])
    # Centre (24, 32) px of the letterbox, 4 px wide: (24, 16) of the frame's part, whose factor is 1.6.
    np.testing.assert_allclose(found.boxes_N4, [[22 / 1.6, 14 / 1.6, 2.5, 2.5]], rtol=1e-5)
    assert STRIDE == 8


def test_boxes_of_whole_pixels_are_those_of_an_integer_array():
    """As the code that it follows: integers assigned to, cut towards 0, kept in the picture, dropped up to one pixel."""
    random = np.random.default_rng(1)
    for height, width, side in ((480, 640, 512), (571, 802, 512), (256, 256, 512), (97, 61, 64)):
        x, y = random.integers(0, width - 2, 200), random.integers(0, height - 2, 200)
        corners = np.stack([x, y, x + random.integers(1, 9, 200), y + random.integers(1, 9, 200)], 1)
        resize = centred(**{"data.resize": f"letterbox:{side}", "data.integer_boxes": True})
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        batch = batch_of([np.zeros((height, width), np.uint8)], [xywh])
        batch["classes"] = [np.arange(200)]
        found, (placement,) = resize(batch)
        (new_height, new_width), (top, left) = placement.placed, placement.origin
        wanted = corners.copy()
        wanted[:, [0, 2]] = wanted[:, [0, 2]] * new_width / width + left
        wanted[:, [1, 3]] = wanted[:, [1, 3]] * new_height / height + top
        wanted[:, :2] = np.maximum(wanted[:, :2], 0)
        wanted[:, 2:] = np.minimum(wanted[:, 2:], side)
        kept = ((wanted[:, 2:] - wanted[:, :2]) > 1).all(1)
        assert found["classes"][0].tolist() == np.flatnonzero(kept).tolist()
        got = found["boxes"][0]
        assert np.array_equal(np.concatenate([got[:, :2], got[:, :2] + got[:, 2:]], 1), wanted[kept])
    assert not kept.all()


def network(**more) -> BPFPN:
    torch.manual_seed(0)
    overrides = {"model.width": 0.0625, "model.frames": 3} | {f"model.{k}": v for k, v in more.items()}
    return build_model(configuration.load(overrides=overrides, model="bp-fpn"))


def test_frame_weights_that_stay():
    for kind, learns in (("trained", True), ("fixed", False)):
        model = network(frame_weights=kind)
        x_BTHW = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        model.train()(x_BTHW).square().sum().backward()
        assert (model.neck.weight.grad is not None) is learns
        assert model.neck.weight.tolist() == [0.5, 0.5, 0.5]
    assert network(frame_weights="fixed").state_dict().keys() == network().state_dict().keys()


@pytest.mark.parametrize("gils", ["all", "key"])
def test_batch_statistics_of_each_place_in_the_clip(gils):
    """The maps of a place are those of its frames alone; in evaluation there is no difference."""
    model = network(batch_statistics="place", **{"gils.frames": gils})
    x_BTHW = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * torch.tensor([1, 2, 4]).view(
        1, 3, 1, 1
    )
    found = model.train().levels(x_BTHW)
    for t in range(3):
        alone = network(batch_statistics="place", **{"gils.frames": gils}).train()
        rows = slice(None) if gils == "all" or t == 2 else None
        wanted = alone.backbone(*alone.image(x_BTHW[:, t]), rows)
        for got, want in zip(found, wanted, strict=True):
            if want is not None:
                torch.testing.assert_close(got.unflatten(0, (2, 3))[:, t], want)
    other = network().train()
    assert not torch.allclose(other.levels(x_BTHW).p3, found.p3, atol=1e-3)
    torch.testing.assert_close(network(batch_statistics="place").eval()(x_BTHW), network().eval()(x_BTHW))


@pytest.mark.parametrize(
    ("model", "changed", "words"),
    [
        ("ggl-net", {"data.letterbox": "centre"}, ["data.letterbox=centre", "data.resize=native"]),
        ("ggl-net", {"data.letterbox": "centre", "data.resize": "stretch:64"}, ["data.resize=stretch:64"]),
        ("bp-fpn", {"data.integer_boxes": True}, ["data.integer_boxes=true", "resizes none"]),
        ("bp-fpn", {"model.frame_weights": "fixed", "model.frames": 1}, ["frame_weights=fixed", "frames=1"]),
        ("bp-fpn", {"model.batch_statistics": "place", "model.frames": 1}, ["batch_statistics=place"]),
        ("ggl-net", {"model.frame_weights": "fixed"}, ["model.frame_weights", "ggl-net has no such option"]),
    ],
)
def test_a_switch_that_decides_nothing_is_refused(model, changed, words):
    with pytest.raises(InputError) as caught:
        configuration.load(overrides=changed, model=model)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_train_and_val_as_one(sample_shards, tmp_path):
    """All their key frames, once an epoch; no validation; the last weights are kept, and said to be the last."""
    small = {"model.width": 4, "model.in_channels": 1, "data.crop": 32, "train.batch": 4, "train.epochs": 1}
    config = configuration.load(overrides=small | {"data.train_on": "train+val"})
    alone = configuration.load(overrides=small)
    manifests = read_all(sample_shards)
    counts = {s: sum(m.count(s, "labelled") for m in manifests) for s in ("train", "val")}
    run = loop.Run(config, sample_shards, "cpu", lambda line: None)
    assert min(counts.values()) > 0 and len(run.loader.windows) == sum(counts.values())
    assert len(loop.Run(alone, sample_shards, "cpu", lambda line: None).loader.windows) == counts["train"]
    groups = {run.loader.windows.key(i)[0] for i in range(len(run.loader.windows))}
    sets = {f"{m.set}/{s['sequence']}" for m in manifests for h in m.shards("train+val") for s in h["samples"]}
    assert groups == sets
    keeper = Keeper(tmp_path)
    run.go(keeper)
    assert run.best["chosen"] == "last" and run.val is None and not [k for k in keeper.metrics[-1] if "val_" in k]
    assert config.identity() != alone.identity()
