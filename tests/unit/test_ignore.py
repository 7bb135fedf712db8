"""Regions of which nothing is claimed: they reach the batch, move with it, and teach no network anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import frames, write_video

from irstd.config import DGRConfig, LossConfig
from irstd.data import shards
from irstd.data.augmentation import dihedral
from irstd.data.ingest import ingest
from irstd.data.loader import ClipLoader
from irstd.data.regions import touched
from irstd.models.batch import ignored, to_device
from irstd.models.bp_fpn import BPFPN
from irstd.models.ggl_net import GGLNet
from irstd.models.resize import Resize
from tests.conftest import CONFIG

SIZE = 24, 32
REGION = [10.0, 4.0, 6.0, 5.0]
TARGET = [2.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "box, cell, expected",
    [
        ([1, 1, 2, 1], 1, [(1, 1), (1, 2)]),
        ([1.5, 0.5, 1, 1], 1, [(0, 1), (0, 2), (1, 1), (1, 2)]),
        ([-3, -3, 4, 4], 1, [(0, 0)]),
        ([-9, 0, 4, 4], 1, []),
        ([3, 2, 99, 99], 1, [(2, 3)]),
        ([9, 9, 1, 1], 8, [(1, 1)]),  # no cell's centre is in it
        ([7, 0, 2, 8], 8, [(0, 0), (0, 1)]),
    ],
)
def test_a_cell_is_touched_that_a_region_has_a_part_of(box, cell, expected):
    found_HW = touched(np.array([box], float), 3, 4, cell)
    assert list(zip(*(axis.tolist() for axis in np.nonzero(found_HW)), strict=True)) == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three recordings, each frame with a target and a region."""
    place = tmp_path_factory.mktemp("ignore")
    rows = [f"{i},{','.join(map(str, box))},{k}" for i in range(4) for k, box in enumerate((TARGET, REGION))]
    for name in "abc":
        write_video(place / "source" / f"{name}.mkv", frames(4, *SIZE, seed=ord(name)))
        (place / "source" / f"{name}.csv").write_text("frame,x,y,w,h,ignore\n" + "\n".join(rows) + "\n")
    ingest(place / "source", "mine", place / "data", place / "staging")
    derive = CONFIG.derive.model_copy(update={"masks": "box"})
    shards.build(place / "data", place / "shards", CONFIG.model_copy(update={"derive": derive}))
    return place / "shards"


def test_a_batch_holds_the_regions_and_moves_them_with_the_pixels(folder):
    (whole,) = ClipLoader(folder, "val", frames=1, batch_size=9)
    assert all(np.array_equal(found, [REGION]) for found in whole["ignore"])
    seen = 0
    for epoch in range(4):
        loader = ClipLoader(folder, "train", frames=1, batch_size=1, crop=16)
        loader.set_epoch(epoch)
        for batch in loader:
            assert len(batch["ignore"]) == 1
            before = to_device(batch, "cpu")
            turned = dihedral(before)
            seed = int(batch["seeds"][0])
            for found in (before, turned):
                (boxes_K4,) = found["ignore"]
                assert ((boxes_K4[:, :2] >= 0) & (boxes_K4[:, :2] + boxes_K4[:, 2:] <= 16)).all(), seed
            # What lies under the region is the same before and after.
            pixels = [
                np.sort(f["frames"][0, 0].numpy()[touched(f["ignore"][0], 16, 16)].ravel()) for f in (before, turned)
            ]
            np.testing.assert_array_equal(*pixels)
            seen += len(boxes_K4)
    assert seen > 0


def test_in_training_targets_end_at_the_border_with_and_without_crops(tmp_path):
    """Labels may reach beyond the frame (a target that comes in); networks are taught the part that is there."""
    row = [-2.0, 5.0, 6.0, 4.0]
    for name in "abc":
        write_video(tmp_path / "source" / f"{name}.mkv", frames(4, *SIZE, seed=ord(name)))
        (tmp_path / "source" / f"{name}.csv").write_text("frame,x,y,w,h\n" + f"0,{','.join(map(str, row))}\n")
    ingest(tmp_path / "source", "mine", tmp_path / "data", tmp_path / "staging")
    shards.build(tmp_path / "data", tmp_path / "shards", CONFIG)
    for crop in (None, 32):
        batches = list(ClipLoader(tmp_path / "shards", "train", frames=1, batch_size=4, crop=crop))
        found = [box for batch in batches for boxes in batch["boxes"] for box in boxes.tolist()]
        assert found == [[0.0, 5.0, 4.0, 4.0]]
        for batch in batches:
            BPFPN(frames=1, width=0.25).loss(batch)
    (whole,) = ClipLoader(tmp_path / "shards", "val", frames=1, batch_size=4)  # what is scored is as it was labelled
    assert [box for boxes in whole["boxes"] for box in boxes.tolist()] == [row]


def test_a_cut_region_stays_however_little_is_left(folder):
    """A target of which less than a quarter is left is dropped; the rest of a region is still not background."""
    areas = []
    for epoch in range(30):
        loader = ClipLoader(folder, "train", frames=1, batch_size=1, crop=16, target_crop=0.0)
        loader.set_epoch(epoch)
        areas += [box[2] * box[3] for batch in loader for box in batch["ignore"][0]]
    assert 0 < min(areas) < REGION[2] * REGION[3] / 4 and max(areas) == REGION[2] * REGION[3]


def test_resizing_takes_the_regions_along(folder):
    (batch,) = ClipLoader(folder, "val", frames=1, batch_size=9)
    resized, _ = Resize("stretch", 64)(to_device(batch, "cpu"))
    np.testing.assert_allclose(resized["ignore"][0], [[20, 4 * 64 / 24, 12, 5 * 64 / 24]], rtol=1e-6)


def test_no_region_costs_nothing(sample_shards):
    batch = to_device(next(iter(ClipLoader(sample_shards, "val", frames=1, batch_size=2))), "cpu")
    assert len(batch["ignore"]) == 2 and ignored(batch) is None


@pytest.mark.parametrize("term", ["soft_iou", "bce", "edge_hard", "focal"])
def test_masks_learn_nothing_from_a_region(folder, term):
    """Other pixels decide the loss alone: its gradient is 0 in the region, and only there."""
    (batch,) = ClipLoader(folder, "val", frames=1, batch_size=9)
    torch.manual_seed(0)
    model = GGLNet(in_channels=1, width=4)
    weights = dict.fromkeys(("soft_iou", "bce", "edge_hard", "focal"), 0.0) | {term: 1.0}
    model.loss_config = LossConfig(**weights)
    seen = []
    model.register_forward_hook(lambda module, inputs, logit: (logit.retain_grad(), seen.append(logit))[0])
    loss, _ = model.loss(batch)
    loss.backward()
    gradient_HW = seen[0].grad[0, 0].numpy()
    region_HW = touched(np.array([REGION]), *SIZE)
    assert not gradient_HW[region_HW].any()
    # The hardest half of the batch leaves others out too.
    assert np.count_nonzero(gradient_HW[~region_HW]) >= (0.1 if term == "edge_hard" else 0.99) * (~region_HW).sum()
    without, _ = model.loss({name: value for name, value in batch.items() if name != "ignore"})
    assert without.item() != loss.item()


def test_of_a_target_in_a_region_nothing_is_learned(folder):
    """Neither its shape nor its absence: the mask there might as well be empty."""
    (batch,) = ClipLoader(folder, "val", frames=1, batch_size=9)
    model = GGLNet(in_channels=1, width=4)
    batch |= {"ignore": [np.array([TARGET], np.float32)] * len(batch["key"])}
    there, _ = model.loss(batch)
    gone, _ = model.loss(batch | {"masks": np.zeros_like(batch["masks"])})
    torch.testing.assert_close(there, gone, rtol=0, atol=0)


def test_boxes_learn_nothing_from_a_region(folder):
    """Objectness is not asked of the cells that a region touches, unless a target took them."""
    (batch,) = ClipLoader(folder, "val", frames=1, batch_size=9)
    one = np.array([[25, 17, 1, 1]], np.float32)  # a pixel, far from the target and from its cell's centre
    batch |= {"ignore": [one] * len(batch["key"]), "boxes": [box[:0] for box in batch["boxes"]]}
    model = BPFPN(frames=1, in_channels=1, width=0.125).eval()
    seen = []
    model.head.register_forward_hook(lambda module, inputs, raw: (raw.retain_grad(), seen.append(raw))[0])
    loss, _ = model.loss(batch)
    loss.backward()
    objectness_HW = seen[0].grad[0, 4, :3, :4]
    assert objectness_HW[2, 3] == 0 and torch.count_nonzero(objectness_HW) == 11
    # A target that is in the region by half of its area is no target; one that reaches into it by less is one as ever.
    inside, beside = (np.array([[x, 16, 4, 4]], np.float32) for x in (24, 20))
    region = [np.array([[24, 16, 4, 4]], np.float32)] * len(batch["key"])
    losses = [
        model.loss(batch | {"ignore": region, "boxes": [boxes] * len(batch["key"])})[1]["cells"]
        for boxes in (inside, beside)
    ]
    assert losses[0] == 0 and losses[1] > 0


def test_coarse_levels_learn_nothing_from_a_region(folder):
    """The auxiliary objectness of DGR keeps the same rule: of the cells that a region touches nothing is asked."""
    (batch,) = ClipLoader(folder, "val", frames=1, batch_size=9)
    batch |= {"boxes": [box[:0] for box in batch["boxes"]]}
    model = BPFPN(frames=1, in_channels=1, width=0.125, dgr=DGRConfig(variant="auxiliary")).eval()
    seen = []
    model.auxiliary.a4.register_forward_hook(lambda module, inputs, raw: (raw.retain_grad(), seen.append(raw))[0])
    for ignore, zeros in ((REGION, [(0, 0)]), ([25, 17, 1, 1], [(1, 1)])):
        loss, _ = model.loss(batch | {"ignore": [np.array([ignore], np.float32)] * len(batch["key"])})
        loss.backward()
        gradient_HW = seen.pop().grad[0, 0]
        assert [tuple(place) for place in (gradient_HW == 0).nonzero().tolist()] == zeros
