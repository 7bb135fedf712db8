"""Regions of a frame that are not scored: boxes in which nobody said what is a target and what is not.

One rule for masks and boxes: what lies in a region by at least half of its own area belongs to it. A target there is neither
found nor missed, a false alarm there is none. Pixels inside a region count in no number of pixels.
"""

from __future__ import annotations

import math

import numpy as np

SHARE = 0.5
"""Of its own area, from which on a blob or a box belongs to a region."""


def region_mask(
    ignore_K4: np.ndarray | None, native: tuple[int, int], shape: tuple[int, int] | None = None
) -> np.ndarray | None:
    """bool [H, W]: every pixel that a region has a part of, as the losses leave them out; None without a region.

    ignore_K4: checked boxes (x, y, w, h) in px of the native frame. native: its (H, W). shape: the grid's, where it is
    another one.
    """
    if ignore_K4 is None or not len(ignore_K4):
        return None
    height, width = shape or native
    factor_4 = np.array([width / native[1], height / native[0]] * 2)
    found_HW = np.zeros((height, width), bool)
    for x, y, w, h in np.asarray(ignore_K4, float) * factor_4:
        # Not by the pixels' centres: on a coarser grid the smallest region would fall between them.
        top, left = max(0, math.floor(y)), max(0, math.floor(x))
        found_HW[top : max(0, math.ceil(y + h)), left : max(0, math.ceil(x + w))] = True
    return found_HW


def shares(boxes_N4: np.ndarray, ignore_K4: np.ndarray) -> np.ndarray:
    """float [N, K]: intersection of each box with each region over the box's own area; 0 for a box of no area."""
    low_NK2 = np.maximum(boxes_N4[:, None, :2], ignore_K4[None, :, :2])
    high_NK2 = np.minimum((boxes_N4[:, :2] + boxes_N4[:, 2:])[:, None], (ignore_K4[:, :2] + ignore_K4[:, 2:])[None])
    common_NK = np.maximum(high_NK2 - low_NK2, 0).prod(axis=2)
    area_N1 = boxes_N4[:, 2:].prod(axis=1)[:, None]
    return np.divide(common_NK, area_N1, out=np.zeros_like(common_NK), where=area_N1 > 0)
