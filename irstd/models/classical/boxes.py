"""Boxes with scores from the response of a classical detector."""

from __future__ import annotations

import cv2
import numpy as np

DEVIATIONS = 4.0
MOST = 100  # boxes of a frame: as many as average precision looks at


def response_boxes(score_HW: np.ndarray, deviations: float = DEVIATIONS) -> tuple[np.ndarray, np.ndarray]:
    """The 8-connected components of a response that stand `deviations` standard deviations above its mean, as boxes.

    The threshold, mean + k deviations of the frame's own response, is the customary one for these operators; k = 4 is our
    reading. A box's score is how many deviations the component's highest pixel stands above the mean, which compares
    frames of other contrast and bit depth. score_HW: float32 [H, W]. Returns boxes float32 [N, 4] (x, y, w, h) and scores
    float32 [N], descending, at most 100; none where the response is flat.
    """
    mean, deviation = float(score_HW.mean(dtype=np.float64)), float(score_HW.std(dtype=np.float64))
    if not deviation:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    mask_HW = (score_HW > mean + deviations * deviation).astype(np.uint8)
    count, labels_HW, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(mask_HW, 8, cv2.CV_32S, cv2.CCL_BBDT)
    highest = np.zeros(count, np.float32)
    inside = mask_HW > 0
    np.maximum.at(highest, labels_HW[inside], score_HW[inside])
    scores_N = ((highest[1:] - mean) / deviation).astype(np.float32)
    order = np.argsort(-scores_N, kind="stable")[:MOST]
    return stats[1:, :4].astype(np.float32)[order], scores_N[order]
