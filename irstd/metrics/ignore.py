"""Regions of a frame that are not scored: boxes in which nobody said what is a target and what is not.

One rule for masks and boxes: what lies in a region by at least half of its own area belongs to it. A target there is neither
found nor missed, a false alarm there is none. Pixels inside a region count in no number of pixels.
"""

from __future__ import annotations

import numpy as np

from irstd.data.regions import touched


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
    return touched(np.asarray(ignore_K4, float) * factor_4, height, width)
