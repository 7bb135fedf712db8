"""Boxes and the frame: what a part of a frame keeps of them, which cells they touch, what belongs to a region."""

from __future__ import annotations

import numpy as np

KEPT = 0.25  # least share of a target's box within a part of a frame for the target to stay


def cut(boxes_M4: np.ndarray, top: float, left: float, height: int, width: int, kept: float = KEPT) -> np.ndarray:
    """float32 [M', 4]: boxes in the pixels of the part at `top`, `left`, cut at its edges.

    Those of which less than `kept` of the area remains are dropped, and those that lie outside.
    """
    found = []
    for x, y, w, h in boxes_M4.tolist():  # few: faster than arrays
        x1, y1, x2, y2 = max(x - left, 0), max(y - top, 0), min(x + w - left, width), min(y + h - top, height)
        # A target whose centre pixel is in the part has a quarter left or more; rounding must not take it away.
        if x2 > x1 and y2 > y1 and (x2 - x1) * (y2 - y1) >= (kept - 1e-3) * w * h:
            found.append((x1, y1, x2 - x1, y2 - y1))
    return np.array(found, np.float32).reshape(-1, 4)


SHARE = 0.5
"""Of its own area, from which on a target, a blob or a box belongs to a region."""


def shares(boxes_N4: np.ndarray, ignore_K4: np.ndarray) -> np.ndarray:
    """float [N, K]: intersection of each box with each region over the box's own area; 0 for a box of no area."""
    low_NK2 = np.maximum(boxes_N4[:, None, :2], ignore_K4[None, :, :2])
    high_NK2 = np.minimum((boxes_N4[:, :2] + boxes_N4[:, 2:])[:, None], (ignore_K4[:, :2] + ignore_K4[:, 2:])[None])
    common_NK = np.maximum(high_NK2 - low_NK2, 0).prod(axis=2)
    area_N1 = boxes_N4[:, 2:].prod(axis=1)[:, None]
    return np.divide(common_NK, area_N1, out=np.zeros_like(common_NK), where=area_N1 > 0)


def claimed(boxes_M4: np.ndarray, ignore_K4: np.ndarray) -> np.ndarray:
    """bool [M]: the targets that count, those with less than half of their area in a region."""
    boxes_M4, ignore_K4 = (np.asarray(boxes, float).reshape(-1, 4) for boxes in (boxes_M4, ignore_K4))
    return shares(boxes_M4, ignore_K4).max(axis=1, initial=0) < SHARE


def touched(boxes_K4: np.ndarray, height: int, width: int, cell: int = 1) -> np.ndarray:
    """bool [height, width]: the cells of `cell` x `cell` pixels that a box (x, y, w, h, edges) has a part of.

    Every cell that is touched, not those whose centre is covered: the smallest region, a target of unknown size that is
    labelled as one pixel, must not fall between the centres of a coarser grid. A box may reach over the frame's border.
    """
    found_HW = np.zeros((height, width), bool)
    for x, y, w, h in np.asarray(boxes_K4, float).reshape(-1, 4) / cell:
        top, left = max(0, int(np.floor(y))), max(0, int(np.floor(x)))
        found_HW[top : max(0, int(np.ceil(y + h))), left : max(0, int(np.ceil(x + w)))] = True
    return found_HW
