"""Contrast for people: counts to 8 bits. What the networks see is another matter (`irstd.data.intensity`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def stretch(frame_HW: np.ndarray, statistics: Mapping[str, float]) -> np.ndarray:
    """uint8 [H, W]: the recording's percentiles 0.5 and 99.5, with a tenth of room on both sides, become 0 and 255.

    The recording's statistics rather than the frame's keep the picture from flickering.
    """
    low, high = float(statistics["p005"]), float(statistics["p995"])
    room = max(high - low, 1.0) * 0.1
    scaled = (frame_HW.astype(np.float32) - (low - room)) * (255.0 / (high - low + 2 * room if high > low else 1.2))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
