"""Contrast for people: counts to 8 bits. What the networks see is another matter (`irstd.data.intensity`).

A still picture is stretched by its own range (`range_of`). A film would flicker so, and by the range of the whole recording
it is dull where the camera pans from sky to ground or the sensor drifts: there `Following` is in between.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

LEAST_SPAN = 8.0  # counts: less is mostly noise, and is shown as such
SETTLES = 25  # frames in which a film's range follows most of a change
CLIP, TILES = 2.0, (8, 8)  # of CLAHE


def stretch(frame_HW: np.ndarray, statistics: Mapping[str, float], local: bool = False) -> np.ndarray:
    """uint8 [H, W]: the percentiles 0.5 and 99.5 of `statistics`, with a tenth of room on both sides, become 0 and 255.

    A few hot or dead pixels therefore do not take the range from all others: they are cut at white or black.
    `local`: contrast-limited adaptive histogram equalisation on top, so that a faint target before the sky shows beside bright
    ground (K. Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994).
    """
    low, high = float(statistics["p005"]), float(statistics["p995"])
    if high - low < LEAST_SPAN:
        low, high = (low + high - LEAST_SPAN) / 2, (low + high + LEAST_SPAN) / 2
    room = (high - low) * 0.1
    scaled = (frame_HW.astype(np.float32) - (low - room)) * (255.0 / (high - low + 2 * room))
    grey_HW = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return cv2.createCLAHE(CLIP, TILES).apply(grey_HW) if local else grey_HW


def range_of(frame_HW: np.ndarray) -> dict[str, float]:
    """`statistics` of one frame; of large ones every other pixel of every other line."""
    step = 2 if frame_HW.size > 2**16 else 1
    low, high = np.percentile(frame_HW[::step, ::step], [0.5, 99.5])
    return {"p005": float(low), "p995": float(high)}


class Following:
    """`statistics` for each frame of a film in turn: the frames' own ranges, smoothed, so that nothing flickers."""

    def __init__(self) -> None:
        self._found: dict[str, float] | None = None

    def __call__(self, frame_HW: np.ndarray) -> dict[str, float]:
        now = range_of(frame_HW)
        if self._found is None:
            self._found = now
        elif now["p995"] > now["p005"]:  # a closed shutter is no change of the scene
            share = 1 - np.exp(-2 / SETTLES)
            self._found = {name: value + share * (now[name] - value) for name, value in self._found.items()}
        return self._found
