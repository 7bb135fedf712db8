"""The range of a recording's counts, exact through a histogram."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import cv2
import numpy as np


class Intensity(TypedDict):
    """Counts over all pixels of all frames; p005 and p995 are the percentiles 0.5 and 99.5."""

    min: int
    max: int
    median: float
    p005: float
    p995: float


class CountHistogram:
    """How often each count occurs; `add` frames, then ask. Memory: 2 KiB (uint8) or 512 KiB (uint16)."""

    def __init__(self) -> None:
        self.counts: np.ndarray | None = None  # int64 [256] or [65536]
        self._words = np.empty(0, np.uint64)  # of the frame before, eight pixels each
        self._last = np.empty(0, np.int64)  # its own counts

    def add(self, frame_HW: np.ndarray) -> None:
        """Count the pixels of a contiguous uint8 or uint16 [H, W] frame. Leave it as it is until the next one comes."""
        bins = 256 if frame_HW.dtype == np.uint8 else 65536
        if self.counts is None:
            self.counts = np.zeros(bins, dtype=np.int64)
        if bins == 256 and frame_HW.size < 2**24:
            self.counts += self._of_8bit(frame_HW)
        else:
            self.counts += np.bincount(frame_HW.ravel(), minlength=bins)

    def _of_8bit(self, frame_HW: np.ndarray) -> np.ndarray:
        """int64 [256]. Compressed video repeats most of the frame before: then only what changed is counted."""
        pixels = frame_HW.ravel()
        words = pixels.view(np.uint64) if pixels.size % 8 == 0 else np.empty(0, np.uint64)
        changed = words != self._words if words.size == self._words.size else np.ones(words.size, bool)
        if words.size and 8 * np.count_nonzero(changed) < words.size:
            (where,) = changed.nonzero()
            new, old = (np.bincount(each[where].view(np.uint8), minlength=256) for each in (words, self._words))
            self._last = self._last + new - old
        else:
            self._last = _histogram_8bit(pixels)
        self._words = words
        return self._last

    def quantile(self, q: float) -> float:
        """The q-quantile (0 to 1) by linear interpolation, as `numpy.quantile` of all pixels."""
        assert self.counts is not None
        cumulative = np.cumsum(self.counts)
        position = q * (int(cumulative[-1]) - 1)
        below = int(position)
        low, high = np.searchsorted(cumulative, [below, min(below + 1, int(cumulative[-1]) - 1)], side="right")
        return float(low + (high - low) * (position - below))

    def intensity(self) -> Intensity:
        """The summary that `sequence.json` carries. `ValueError` where no frame was added."""
        if self.counts is None:
            raise ValueError("no frames: an intensity range needs at least one")
        used = np.flatnonzero(self.counts)
        return Intensity(
            min=int(used[0]),
            max=int(used[-1]),
            median=round(self.quantile(0.5), 4),
            p005=round(self.quantile(0.005), 4),
            p995=round(self.quantile(0.995), 4),
        )


def _histogram_8bit(pixels: np.ndarray) -> np.ndarray:
    """int64 [256] of uint8 [N]. OpenCV's float32 bins are exact up to 2^24; for 16 bits `bincount` is the faster one."""
    if pixels.size % 4 == 0:
        # Neighbours are often equal, and adding twice to one bin has to wait; pixels of four far rows in turn do not.
        pixels = cv2.merge(list(pixels.reshape(4, 1, -1))).reshape(1, -1)
    return cv2.calcHist([pixels.reshape(1, -1)], [0], None, [256], [0, 256]).ravel().astype(np.int64)


def intensity_of(frames: Iterable[np.ndarray]) -> Intensity:
    """The range of counts of uint8 or uint16 [H, W] frames (all of one dtype), read once."""
    histogram = CountHistogram()
    for frame_HW in frames:
        histogram.add(frame_HW)
    return histogram.intensity()
