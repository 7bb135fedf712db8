"""Symmetries move frames, gradient map, masks and boxes together, and each key frame's own seed chooses its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from irstd.data.augmentation import dihedral, intensities, turn_boxes
from irstd.data.derive import targets_of
from irstd.data.gradient import gradient_magnitude
from irstd.data.loader import ClipLoader, collate
from irstd.models.batch import to_device

SYMMETRIES = range(8)  # the low three bits of a seed
Size = tuple[int, int]


def item(height: int, width: int, seed: int, content: int = 0) -> dict[str, Any]:
    """A key frame of 14 bits with two targets that no symmetry maps onto themselves."""
    rng = np.random.default_rng(content)
    frames = rng.integers(0, 1 << 14, (3, height, width), dtype=np.uint16)
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[1:3, 2:7] = mask_HW[height - 6 : height - 2, width - 3 : width - 1] = 1
    return {
        "frames": list(frames),
        "gradient": (gradient_magnitude(frames[-1], scale=0.01), 1.0),
        "masks": mask_HW,
        "boxes": targets_of(mask_HW)[0].astype(np.float32),
        "ignore": np.zeros((0, 4), np.float32),
        "offset": 0.0,
        "scale": 0.01,
        "size": (height, width),
        "key": (f"set/{content}", 0),
        "seeds": seed,
    }


def batch(*items: dict[str, Any]) -> dict[str, Any]:
    return to_device(collate(list(items), masks=True, gradient=True), "cpu")


def assert_together(found: dict[str, Any]) -> None:
    """Gradient map and boxes are those of the frames and masks as they lie now; the padding is zero."""
    for b, (h, w) in enumerate(found["size"].tolist()):
        frame_HW = found["frames"][b, -1, :h, :w].numpy()
        np.testing.assert_allclose(found["gradient"][b, :h, :w], gradient_magnitude(frame_HW, scale=0.01), rtol=1e-6)
        boxes = found["boxes"][b]
        order = np.lexsort((boxes[:, 0], boxes[:, 1]))
        np.testing.assert_array_equal(boxes[order], targets_of(found["masks"][b].numpy())[0])
        for name in ("frames", "gradient", "masks"):
            assert not found[name][b, ..., h:, :].any() and not found[name][b, ..., w:].any()


def places(found: dict[str, Any]) -> set[bytes]:
    return {frame_THW.numpy().tobytes() for frame_THW in found["frames"]}


def test_eight_symmetries_of_a_square_frame():
    given = batch(*(item(16, 16, seed) for seed in SYMMETRIES))
    before = given["frames"].clone()
    found = dihedral(given)
    assert len(places(found)) == 8 and torch.equal(found["frames"][0], before[0])
    assert_together(found)
    assert torch.equal(given["frames"], before)  # the batch that was handed in stays as it was
    for frame_THW, original_THW in zip(found["frames"], before, strict=True):
        assert torch.equal(frame_THW.flatten(1).sort().values, original_THW.flatten(1).sort().values)


@pytest.mark.parametrize(("flips", "turns", "count"), [(True, False, 4), (False, True, 4), (False, False, 1)])
def test_switches(flips, turns, count):
    found = dihedral(batch(*(item(16, 16, seed) for seed in SYMMETRIES)), flips, turns)
    assert len(places(found)) == count
    assert_together(found)


@pytest.mark.parametrize("size", [(16, 24), (24, 16)])
def test_other_frames_are_flipped_but_never_quarter_turned(size):
    found = dihedral(batch(*(item(*size, seed) for seed in SYMMETRIES)))
    assert found["frames"].shape[-2:] == size and len(places(found)) == 4
    assert_together(found)
    assert torch.equal(found["frames"], dihedral(batch(*(item(*size, s) for s in SYMMETRIES)), True, False)["frames"])


@pytest.mark.parametrize("seed", SYMMETRIES)
def test_padding_stays_at_the_bottom_and_right(seed):
    """Frames of several sizes in one batch: each moves within its own area."""
    found = dihedral(batch(*(item(h, w, seed) for h, w in [(16, 16), (24, 24), (16, 24), (20, 12)])))
    assert_together(found)
    assert found["size"].tolist() == [[16, 16], [24, 24], [16, 24], [20, 12]]


@pytest.mark.parametrize("seed", SYMMETRIES)
def test_the_rest_of_the_batch_does_not_matter(seed):
    """A rank that holds fewer key frames, or others, turns this one in the same way."""
    given = item(16, 16, seed), item(16, 24, seed ^ 5, content=1), item(20, 20, seed ^ 3, content=2)
    together = dihedral(batch(*given))
    for order in [(2, 0, 1), (0,), (1, 0)]:
        found = dihedral(batch(*(given[i] for i in order)))
        for place, i in enumerate(order):
            h, w = given[i]["size"]
            for name in ("frames", "gradient", "masks"):
                assert torch.equal(found[name][place, ..., :h, :w], together[name][i, ..., :h, :w])
            np.testing.assert_array_equal(found["boxes"][place], together["boxes"][i])


def test_boxes_of_fractions_and_none():
    box = np.array([[1.25, 2.5, 3.0, 1.5]], np.float32)
    np.testing.assert_array_equal(turn_boxes(box, 10, 20, True, 0), [[15.75, 2.5, 3.0, 1.5]])
    np.testing.assert_array_equal(turn_boxes(box, 10, 20, False, 1), [[2.5, 15.75, 1.5, 3.0]])
    np.testing.assert_array_equal(turn_boxes(box, 10, 20, False, 2), [[15.75, 6.0, 3.0, 1.5]])
    for turns in range(4):
        assert turn_boxes(np.empty((0, 4)), 10, 20, True, turns).shape == (0, 4)


def test_batches_of_the_loader(sample_shards):
    """From shards to turned tensors: two epochs differ, the same epoch does not, nor does its division among ranks."""

    def epoch(number: int, world: int = 1) -> dict[tuple[str, int], torch.Tensor]:
        found = {}
        for rank in range(world):
            loader = ClipLoader(sample_shards, "train", batch_size=4 // world, rank=rank, world_size=world, crop=40)
            loader.set_epoch(number)
            for each in loader:
                turned = dihedral(to_device(each, "cpu"))
                for b, key in enumerate(turned["key"]):
                    h, w = turned["size"][b].tolist()
                    assert_loaded(turned, b, h, w)
                    found[key] = turned["frames"][b, :, :h, :w]
        return found

    first, second, again, shared = epoch(0), epoch(1), epoch(0), epoch(0, 2)
    assert first.keys() == again.keys() == shared.keys()
    assert all(torch.equal(first[key], again[key]) and torch.equal(first[key], shared[key]) for key in first)
    assert any(not torch.equal(first[key], second[key]) for key in first.keys() & second.keys())


def assert_loaded(turned: dict[str, Any], b: int, h: int, w: int) -> None:
    """The stored map is rounded to float16, and a crop's edge has neighbours in the map that it lacks in the frame."""
    frame_HW, scale = turned["frames"][b, -1, :h, :w].numpy(), float(turned["scale"][b])
    inside = np.s_[1:-1, 1:-1]
    computed_HW = gradient_magnitude(frame_HW, scale=scale)
    np.testing.assert_allclose(turned["gradient"][b, :h, :w][inside], computed_HW[inside], rtol=2**-10)


def test_intensities_change_offset_and_scale_alone():
    """x after the change is c x + b, and the gradient map is that of the changed frame."""
    random = np.random.default_rng(0)
    frames = random.integers(7000, 7300, (3, 1, 20, 24)).astype(np.int32)
    batch = {
        "frames": torch.from_numpy(frames),
        "offset": torch.full((3,), 6900.0),
        "scale": torch.full((3,), 1 / 600),
        "gradient": torch.from_numpy(np.stack([gradient_magnitude(f[0], scale=1 / 600) for f in frames])),
        "seeds": np.array([2**40 + 2**20, 2**62 + 12345678901, 3 * 2**30], np.uint64),
        "size": torch.tensor([[20, 24]] * 3),
    }
    found = intensities(batch, contrast=0.3, brightness=0.2)
    assert found["frames"] is batch["frames"]
    assert len(set(found["scale"].tolist())) == 3
    for b in range(3):
        factor = float(found["scale"][b]) * 600
        assert 0.7 - 1e-6 <= factor <= 1.3 + 1e-6
        x = (frames[b, 0] - 6900.0) / 600
        changed = (frames[b, 0] - float(found["offset"][b])) * float(found["scale"][b])
        shift = changed - factor * x
        assert abs(shift).max() <= 0.2 + 1e-3 and np.ptp(shift) < 1e-3
        np.testing.assert_allclose(found["gradient"][b].numpy(), gradient_magnitude(changed), atol=1e-5)
    alone = intensities({k: v[1:2] for k, v in batch.items()}, contrast=0.3, brightness=0.2)
    assert torch.equal(alone["scale"], found["scale"][1:2]) and torch.equal(alone["offset"], found["offset"][1:2])
    assert intensities(batch) is batch
