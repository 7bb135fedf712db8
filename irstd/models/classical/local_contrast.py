"""Multiscale patch-based contrast measure (MPCM)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from irstd.errors import InputError
from irstd.models.classical.frame import checked_frame

# One of each opposite pair of the eight neighbouring patches, (row, column).
_DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1))


def local_contrast(frame_HW: np.ndarray, sizes: Sequence[int] = (3, 5, 7, 9)) -> np.ndarray:
    """How far the mean of a patch stands above all eight patches around it, at the best of several patch sizes.

    Of each opposite pair of neighbours the two differences (patch minus neighbour) are multiplied; the least product
    of the four pairs counts, so an edge, which has a bright side, scores 0. Two departures from the paper: a pair
    counts only when both differences are positive (bright targets alone), and the score is the square root of the
    product, so that it is in counts.

    frame_HW: uint8, uint16 or float32 counts. sizes: odd, px, suited to targets of 1 to 9 px. Returns float32 [H, W]
    in counts, at least 0. Borders are mirrored. Raises InputError (a ValueError) for other frames.
    Source: Wei, You and Li, Multiscale patch-based contrast measure for small infrared target detection, Pattern
    Recognition 58 (2016), after the local contrast of Chen et al., IEEE TGRS 52 (2014).
    """
    frame_HW = checked_frame(frame_HW).astype(np.float32)
    if not sizes or any(size < 1 or size % 2 == 0 for size in sizes):
        raise InputError(f"the patch sizes are {tuple(sizes)}: they must be odd")
    best_HW = np.zeros(frame_HW.shape, np.float32)
    for size in sizes:
        np.maximum(best_HW, _contrast(frame_HW, size), out=best_HW)
    return np.sqrt(best_HW, out=best_HW)


def _contrast(frame_HW: np.ndarray, size: int) -> np.ndarray:
    """The least product over opposite pairs, in counts squared; above 0 only where a patch outshines its neighbours."""
    height, width = frame_HW.shape
    margin = size + size // 2
    padded = cv2.copyMakeBorder(frame_HW, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
    mean = cv2.blur(padded, (size, size))

    def shifted(row: int, column: int) -> np.ndarray:
        top, left = margin + row * size, margin + column * size
        return mean[top : top + height, left : left + width]

    centre = shifted(0, 0)
    least = None
    for row, column in _DIRECTIONS:
        # One factor is clipped, so that two negative ones make no contrast; a negative product stays below the zero
        # that the best of all sizes starts from.
        product = np.maximum(centre - shifted(row, column), 0)
        product *= centre - shifted(-row, -column)
        least = product if least is None else np.minimum(least, product, out=least)
    return least
