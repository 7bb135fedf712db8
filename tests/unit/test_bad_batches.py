"""What no network should swallow: for ours and for other people's, each fault one clear line, and no NaN that travels on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from irstd import config as configuration
from irstd.config import LossConfig
from irstd.errors import InputError
from irstd.inference.detector import Detector
from irstd.inference.package import write
from irstd.models import DetectionAdapter, SegmentationAdapter, build_model
from irstd.models.contract import Model, state


class OneBox(nn.Module):
    """A box a frame, of the mean of the frame."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, targets=None):
        mean = x.mean((1, 2, 3)) * self.scale
        if targets is not None:
            return {"score": mean.sum() * 0.1}
        return [{"boxes": torch.tensor([[1.0, 1.0, 5.0, 5.0]]), "scores": torch.sigmoid(m)[None]} for m in mean]


def build(name: str) -> Model:
    torch.manual_seed(0)
    if name == "adapter of maps":
        return SegmentationAdapter(nn.Conv2d(2, 1, 3, padding=1), frames=2)
    if name == "adapter of boxes":
        return DetectionAdapter(OneBox(), frames=2)
    small = {"ggl-net": {"model.width": 4}, "bp-fpn": {"model.width": 0.125, "model.frames": 2}}[name]
    return build_model(configuration.load(overrides=small, model=name))


NETWORKS = ("ggl-net", "bp-fpn", "adapter of maps", "adapter of boxes")


def batch(frames: int, dtype=np.uint16) -> dict:
    random = np.random.default_rng(0)
    found = {
        "frames": random.integers(100, 250, (2, frames, 32, 64)).astype(dtype),
        "gradient": np.zeros((2, 32, 64), np.float32),
        "masks": np.zeros((2, 32, 64), np.uint8),
        "offset": np.full(2, 100, np.float32),
        "scale": np.full(2, 1 / 300, np.float32),
        "size": np.array([[32, 64]] * 2, np.int64),
        "boxes": [np.array([[4, 5, 3, 2]], np.float32)] * 2,
        "key": [("s/q", b) for b in range(2)],
    }
    found["masks"][:, 5:7, 4:7] = 1
    return found


def holding(name: str, value: float, index=0):
    def change(given):
        given[name] = given[name].astype(np.float32)
        given[name].flat[index] = value

    return change


def set_to(name: str, value):
    return lambda given: given.update({name: value})


FAULTS = [
    (
        lambda g: g.update(frames=g["frames"].astype(np.float64)),
        "frames: the type is float64, expected the sensor's counts",
    ),
    (lambda g: g.update(frames=g["frames"].astype(np.float32)), "frames: the type is float32"),
    (lambda g: g.update(frames=torch.full(g["frames"].shape, torch.nan)), "frames: holds NaN or infinity"),
    (lambda g: g.update(frames=g["frames"].astype(np.int16)), "frames: the type is int16"),
    (lambda g: g.update(frames=g["frames"].astype(np.uint32)), "frames: the type is uint32"),
    (lambda g: g.update(frames=g["frames"][..., None].repeat(3, -1)), "expected grey counts"),
    (lambda g: g.update(frames=g["frames"][:, 0]), "expected grey counts"),
    (lambda g: g.update(frames=g["frames"][:0]), "not empty"),
    (lambda g: g.update(frames=np.concatenate([g["frames"]] * 3, 1)), r"takes clips of T=\d frames, got [36]"),
    (holding("offset", np.nan), "offset: holds NaN or infinity"),
    (holding("scale", np.inf), "scale: holds NaN or infinity"),
    (holding("gradient", np.nan, 7), "gradient: holds NaN or infinity"),
    (set_to("gradient", np.zeros((2, 16, 64), np.float32)), r"gradient: the shape is \(2, 16, 64\), with frames"),
    (set_to("offset", np.zeros(3, np.float32)), r"offset: the shape is \(3,\)"),
    (set_to("size", np.array([[32, 64], [33, 64]])), "size: .* is not within the frames' 32 x 64"),
    (lambda g: g.update(masks=g["masks"] * 255), "masks: the values go up to 255, expected 0 and 1"),
    (holding("masks", 0.5, 3), "masks: the values go up to 1, expected 0 and 1"),
    (holding("masks", np.nan, 3), "masks: holds NaN"),
    (set_to("masks", np.zeros((2, 32, 32), np.uint8)), r"masks: the shape is \(2, 32, 32\)"),
]


@pytest.mark.parametrize("call", ["loss", "predict"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_that_no_loader_makes_is_one_line(name, call):
    model = build(name)
    for change, words in FAULTS:
        given = batch(model.frames)
        change(given)
        with pytest.raises(InputError, match=words) as caught:
            getattr(model, call)(given)
        assert "\n" not in str(caught.value)
    getattr(model, call)(batch(model.frames))


BOXES = [
    ([[60, 5, 8, 2]], "empty or outside its frame 64 x 32"),
    ([[4, -9, 3, 2]], "of .'s/q', 1. is empty or outside"),
    ([[4, 5, 0, 2]], "empty or outside"),
    ([[4, 5, np.nan, 2]], "empty or outside"),
]


@pytest.mark.parametrize("name", ["bp-fpn", "adapter of boxes"])
def test_boxes_that_no_frame_can_have(name):
    model = build(name)
    for box, words in BOXES:
        given = batch(model.frames)
        given["boxes"] = [given["boxes"][0], np.array(box, np.float32)]
        with pytest.raises(InputError, match=words):
            model.loss(given)
    for boxes, words in (
        (None, "learns from boxes, and the batch has none"),
        ([], "boxes of 0 key frames came with 2"),
    ):
        with pytest.raises(InputError, match=words):
            model.loss(batch(model.frames) | {"boxes": boxes})


@pytest.mark.parametrize("name", ["ggl-net", "adapter of maps"])
def test_masks_are_asked_for(name):
    model = build(name)
    with pytest.raises(InputError, match="learns from masks, and a chosen set has none"):
        model.loss(batch(model.frames) | {"masks": None})


@pytest.mark.parametrize(
    "losses", [{}, {"focal": 1, "edge_hard": 1, "objectness_focal": True, "similarity": "gaussian"}]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_target_at_all_trains_without_nan(name, losses):
    model = build(name).train()
    model.loss_config = LossConfig(**losses)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    given = batch(model.frames)
    given["masks"][:] = 0
    given["boxes"] = [np.zeros((0, 4), np.float32)] * 2
    for _ in range(2):
        total, parts = model.loss(given)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        assert torch.isfinite(total.detach()) and all(torch.isfinite(v) for v in parts.values())
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
    for found in model.eval().predict(given):
        assert np.isfinite(found.scores_N).all() and np.isfinite(found.boxes_N4).all()


@pytest.mark.parametrize("name", ["ggl-net", "bp-fpn"])
def test_a_network_itself_refuses_what_is_no_number(name):
    model = build(name).eval()
    x_BTHW = torch.zeros(1, model.frames, 32, 32)
    x_BTHW[0, -1, 3, 4] = torch.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        model(x_BTHW)
    if name == "ggl-net":
        with pytest.raises(InputError, match="gradient map holds NaN or infinity"):
            model(torch.zeros(1, 1, 32, 32), x_BTHW)


def test_a_detector_of_eight_bits_refuses_deeper_frames(tmp_path):
    config = configuration.load(overrides={"model.width": 4, "data.intensity": "full_scale"})
    detector = Detector(write(tmp_path, state(build_model(config)), config, [], {}, {}))
    assert len(detector(np.zeros((2, 32, 32), np.uint8))) == 2
    with pytest.raises(InputError, match="a 16-bit recording, and the model takes 8 bits"):
        detector(np.zeros((2, 32, 32), np.uint16))
    with pytest.raises(
        InputError, match=r"expected sensor counts uint8 or uint16 \[T, H, W\], got float32 \[2, 32, 32\]"
    ):
        detector(np.zeros((2, 32, 32), np.float32))
