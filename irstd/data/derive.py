"""Boxes and points of the targets in a mask."""

from __future__ import annotations

import cv2
import numpy as np


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
