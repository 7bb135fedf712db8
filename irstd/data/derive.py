"""Truth made from other truth: boxes from masks, boxes from points, pseudo-masks from boxes.

A pseudo-mask is a guess at a target's shape: good enough to learn from, never to measure an IoU with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np

RING = 8  # pixels around a box whose median is its background
METHODS = ("box", "ellipse", "half-maximum")


def targets_of(mask_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One tight box and one centroid for each 8-connected component of a mask.

    Args:
        mask_HW: [H, W], any dtype; every value other than 0 is target.

    Returns:
        boxes float64 [N, 4] (x, y, w, h), edges, so that one pixel (i, j) gives (j, i, 1, 1);
        points float64 [N, 2] (x, y), means of the pixels' indices, so that one pixel (i, j) gives (j, i).
        Ordered by the boxes' top, then left, edge, whatever order the labelling has.
    """
    binary_HW = (np.asarray(mask_HW) != 0).astype(np.uint8)
    _, _, stats, centroids = cv2.connectedComponentsWithStatsWithAlgorithm(binary_HW, 8, cv2.CV_32S, cv2.CCL_BBDT)
    boxes_N4 = stats[1:, :4].astype(np.float64)  # row 0 is the background, even of an empty mask
    order = np.lexsort((boxes_N4[:, 0], boxes_N4[:, 1]))
    return boxes_N4[order], centroids[1:][order]


def boxes_around(points_N2: np.ndarray, size: float) -> np.ndarray:
    """Boxes float64 [N, 4] (x, y, w, h) of `size` pixels a side around points (x, y), which name pixel centres.

    A box at the frame's border reaches over it: its centre stays the point.
    """
    points_N2 = np.asarray(points_N2, np.float64).reshape(-1, 2)
    return np.concatenate([points_N2 + 0.5 - size / 2, np.full(points_N2.shape, float(size))], axis=1)


def pseudo_mask(frame_HW: np.ndarray, boxes_N4: np.ndarray, method: str) -> np.ndarray:
    """A mask uint8 {0, 1} [H, W] made from boxes (x, y, w, h) by one of `METHODS`.

    "box": the pixels whose centres lie in a box. "ellipse": those in the ellipse that a box encloses. "half-maximum":
    those in a box that stand out from its background, hot or cold, by half as much as the one that does most, and hang
    together with it; the background is the median of a ring of `RING` pixels around the box. Every box that overlaps the
    frame marks one pixel at least.
    """
    height, width = frame_HW.shape
    mask_HW = np.zeros((height, width), np.uint8)
    for x, y, w, h in np.asarray(boxes_N4, np.float64).reshape(-1, 4):
        left, top = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
        right, bottom = min(width, int(np.ceil(x + w))), min(height, int(np.ceil(y + h)))
        if left >= right or top >= bottom:
            continue
        across_w = (np.arange(left, right) + 0.5 - x - w / 2) / (w / 2)
        down_h = (np.arange(top, bottom) + 0.5 - y - h / 2) / (h / 2)
        inside_hw = (abs(down_h)[:, None] <= 1) & (abs(across_w) <= 1)
        ellipse_hw = down_h[:, None] ** 2 + across_w**2 <= 1
        if method == "half-maximum":
            found_hw = _half_maximum(frame_HW, (left, top, right, bottom), inside_hw, ellipse_hw)
        else:
            found_hw = inside_hw if method == "box" else ellipse_hw
        if not found_hw.any():  # smaller than a pixel, or cut by the frame's edge: the pixel nearest to its middle
            found_hw = found_hw.copy()
            found_hw[abs(down_h).argmin(), abs(across_w).argmin()] = True
        mask_HW[top:bottom, left:right] |= found_hw.astype(np.uint8)
    return mask_HW


def _half_maximum(
    frame_HW: np.ndarray, area: tuple[int, int, int, int], inside_hw: np.ndarray, ellipse_hw: np.ndarray
) -> np.ndarray:
    left, top, right, bottom = area
    if not inside_hw.any():
        return inside_hw
    around = np.s_[max(0, top - RING) : bottom + RING, max(0, left - RING) : right + RING]
    ring_HW = np.zeros(frame_HW.shape, bool)
    ring_HW[around] = True
    ring_HW[top:bottom, left:right] = False
    if not ring_HW[around].any():  # the box is the frame
        return ellipse_hw
    background = float(np.median(frame_HW[around][ring_HW[around]]))
    out_hw = np.where(inside_hw, frame_HW[top:bottom, left:right].astype(np.float64) - background, 0.0)
    peak = np.unravel_index(np.abs(out_hw).argmax(), out_hw.shape)
    if out_hw[peak] == 0:  # nothing stands out
        return ellipse_hw
    high_hw = (out_hw / out_hw[peak] >= 0.5).astype(np.uint8)
    _, labels_hw = cv2.connectedComponentsWithAlgorithm(high_hw, 8, cv2.CV_32S, cv2.CCL_BBDT)
    return labels_hw == labels_hw[peak]


def described(samples: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What was derived in samples of a manifest: the `derived` of all of them as one."""
    found: dict[str, Any] = {}
    for sample in samples:
        found |= sample.get("derived", {})
    return found
