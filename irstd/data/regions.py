"""Regions of a frame of which nothing is claimed: neither target nor background."""

from __future__ import annotations

import numpy as np


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
