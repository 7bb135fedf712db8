"""Zoom, shift and noise: frames, gradient map, masks and boxes stay together, and each key frame's seed decides alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from irstd.data.gradient import gradient_magnitude
from irstd.training.distortion import noisy, zoomed

HEIGHT, WIDTH = 48, 64
BOXES = np.array([[10, 12, 6, 4], [40, 30, 1, 1], [60, 40, 4, 8]], np.float32)


def batch(*seeds: int, sizes: tuple[tuple[int, int], ...] = ()) -> dict[str, Any]:
    """A slope with three flat targets on it, 14 bits, in clips of two frames; every key frame with a map, mask and boxes."""
    sizes = sizes or ((HEIGHT, WIDTH),) * len(seeds)
    height, width = (max(side) for side in zip(*sizes, strict=True))
    frames = np.zeros((len(seeds), 2, height, width), np.int32)
    masks = np.zeros((len(seeds), height, width), np.uint8)
    for frame_THW, mask_HW, (h, w) in zip(frames, masks, sizes, strict=True):
        frame_THW[:, :h, :w] = 7000 + 3 * np.arange(w) + 2 * np.arange(h)[:, None]
        for x, y, across, down in BOXES.astype(int):
            frame_THW[:, y : y + down, x : x + across] += 500
            mask_HW[y : y + down, x : x + across] = 1
        frame_THW[:, h:], frame_THW[:, :, w:], mask_HW[h:], mask_HW[:, w:] = 0, 0, 0, 0
    return {
        "frames": torch.from_numpy(frames),
        "offset": torch.full((len(seeds),), 7000.0),
        "scale": torch.full((len(seeds),), 1 / 600),
        "gradient": torch.zeros(len(seeds), height, width),
        "masks": torch.from_numpy(masks),
        "boxes": [BOXES[BOXES[:, 0] + BOXES[:, 2] <= w] for _, w in sizes],
        "ignore": [np.array([[0, 0, 8, 8]], np.float32)] * len(seeds),
        "size": torch.tensor(sizes),
        "seeds": np.array(seeds, np.uint64),
        "key": [("s/a", i) for i in range(len(seeds))],
    }


def assert_the_map_is_of_the_frame(found: dict[str, Any]) -> None:
    assert not found["offset"].any() and (found["scale"] == 1).all()
    for b, (h, w) in enumerate(found["size"].tolist()):
        x_HW = found["frames"][b, -1, :h, :w].numpy()
        np.testing.assert_allclose(found["gradient"][b, :h, :w], gradient_magnitude(x_HW), rtol=1e-4, atol=1e-6)
        assert not found["gradient"][b, h:].any() and not found["gradient"][b, :, w:].any()


@pytest.mark.parametrize("seed", range(6))
def test_targets_are_where_their_boxes_say(seed):
    """Within half a pixel, at any scale and place: the bright pixels, the mask and the boxes move together."""
    found = zoomed(batch(seed), zoom=0.3, shift=0.2)
    x_HW, mask_HW = found["frames"][0, -1].numpy(), found["masks"][0].numpy()
    slope = np.quantile(x_HW, 0.5)
    covered = np.zeros_like(mask_HW)
    for x, y, w, h in found["boxes"][0].tolist():
        part = np.s_[int(y) : int(np.ceil(y + h)), int(x) : int(np.ceil(x + w))]
        covered[part] = 1
        assert mask_HW[part].any() and x_HW[part].max() > slope + 0.1
        if w * h >= 9:
            rows, columns = np.nonzero(mask_HW[part])
            assert abs(columns.mean() + 0.5 + int(x) - (x + w / 2)) <= 0.5
            assert abs(rows.mean() + 0.5 + int(y) - (y + h / 2)) <= 0.5
    # What a cut target leaves at the border may go beyond the boxes that are kept.
    inside = np.s_[4:-4, 4:-4]
    assert not (mask_HW & ~covered & 1)[inside].any()
    assert_the_map_is_of_the_frame(found)
    assert torch.equal(found["frames"][0, 0], found["frames"][0, 1])  # one draw for the clip


def test_a_shift_alone_is_exact():
    """A draw of whole pixels moves counts without mixing them; what comes in repeats the border."""
    given = batch(3)
    draw = np.random.default_rng([3, 1]).uniform(-1, 1, 3)
    share = 5 / (WIDTH * abs(draw[1]))  # five columns
    found = zoomed(given, shift=share)
    dx, dy = np.sign(draw[1]) * 5, share * HEIGHT * draw[2]
    x_HW = ((given["frames"][0, -1].float() - 7000) / 600).numpy()
    rows = np.clip(np.arange(HEIGHT) - dy, 0, HEIGHT - 1)
    columns = np.clip(np.arange(WIDTH) - int(dx), 0, WIDTH - 1)
    low = np.minimum(rows.astype(int), HEIGHT - 2)
    weight = (rows - low)[:, None]
    expected = (x_HW[low] * (1 - weight) + x_HW[low + 1] * weight)[:, columns]
    np.testing.assert_allclose(found["frames"][0, -1].numpy(), expected, atol=2e-6)
    kept = [
        box
        for box in (BOXES + [dx, dy, 0, 0]).tolist()
        if 0 <= box[0] <= WIDTH - box[2] and 0 <= box[1] <= HEIGHT - box[3]
    ]
    for box in kept:
        assert (np.abs(found["boxes"][0] - box).max(1) < 1e-4).any()


def test_a_pixel_that_shrinks_stays_a_target():
    for seed in range(40):
        found = zoomed(batch(seed), zoom=0.5)
        for x, y, w, h in found["boxes"][0].tolist():
            part = np.s_[int(y) : int(np.ceil(y + h)), int(x) : int(np.ceil(x + w))]
            assert found["masks"][0][part].any(), seed


@pytest.mark.parametrize("distort", [lambda b: zoomed(b, 0.3, 0.2), lambda b: noisy(b, 0.1)])
def test_the_seed_decides_whatever_else_is_in_the_batch(distort):
    sizes = ((HEIGHT, WIDTH), (40, 56), (HEIGHT, 50))
    together = distort(batch(7, 8, 9, sizes=sizes))
    assert_the_map_is_of_the_frame(together)
    for b, (seed, size) in enumerate(zip((7, 8, 9), sizes, strict=True)):
        alone = distort(batch(seed, sizes=(size,)))
        h, w = size
        for name in ("frames", "gradient", "masks"):
            torch.testing.assert_close(together[name][b, ..., :h, :w], alone[name][0, ..., :h, :w])
        np.testing.assert_array_equal(together["boxes"][b], alone["boxes"][0])
    again = distort(batch(7, 8, 9, sizes=sizes))
    assert torch.equal(again["frames"], together["frames"])
    assert not torch.equal(distort(batch(17))["frames"], distort(batch(18))["frames"])


def test_noise_has_the_deviation_that_was_drawn():
    given = batch(5)
    found = noisy(given, 0.2)
    difference = found["frames"][0] - (given["frames"][0] - 7000.0) / 600
    expected = 0.2 * np.random.default_rng([5, 2]).uniform()
    assert float(difference.std()) == pytest.approx(expected, rel=0.05)
    assert abs(float(difference.mean())) < 4 * expected / difference.numel() ** 0.5
    assert not torch.equal(difference[0], difference[1])  # frames of a clip have noise of their own
    for name in ("masks", "boxes", "ignore"):
        assert found[name] is given[name]
    assert_the_map_is_of_the_frame(found)


def test_off_is_off():
    given = batch(1)
    assert zoomed(given) is given and noisy(given) is given
