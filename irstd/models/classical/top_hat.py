"""White top-hat: what stands above an opening of the frame."""

from __future__ import annotations

import cv2
import numpy as np

from irstd.errors import InputError
from irstd.models.classical.frame import checked_frame


def top_hat(frame_HW: np.ndarray, size: int = 11) -> np.ndarray:
    """Bright structures that a square of `size` px does not fit into, as height above their surroundings.

    frame_HW: uint8, uint16 or float32 counts; 16 bits stay 16 bits. size: odd, greater than the largest target: the
    default keeps targets of up to 9 px whole. Returns float32 [H, W] in counts, at least 0. Raises InputError (a
    ValueError) for other frames. Source: Rivest and Fortin, Detection of dim targets in digital infrared imagery by
    morphological image processing, Optical Engineering 35 (1996).
    """
    if size < 3 or size % 2 == 0:
        raise InputError(f"the square of the top-hat is {size} px: it must be odd and at least 3")
    square = cv2.getStructuringElement(cv2.MORPH_RECT, (size, size))
    return cv2.morphologyEx(checked_frame(frame_HW), cv2.MORPH_TOPHAT, square).astype(np.float32)
