"""How targets stand out: SCR, and whether they would stand out better beside their labels.

SCR = |mean of the target - mean of the background| / deviation of the background; the background is the target's bounding
box grown by 20 px on each side, without the pixels of any target or ignore box. A target's pixels are its component of the mask,
else those whose centres lie in its box, else the one that its point names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from irstd.data import rle
from irstd.data.annotations import FrameTargets
from irstd.data.contrast import RING, edges_of

REACH = 4  # px: offsets that are tried, each way; the best has to lie within, or it is a slope of the background
LARGEST = 40  # px a side: of larger targets an offset of REACH says nothing
VISIBLE = 1.0  # SCR somewhere within REACH, or there is nothing to judge by
LEAST_TARGETS = 20
GAIN = 0.1  # of the best contrast, lost at the label on average, for each px of the offset
AGREE = 0.75  # of the targets have more contrast at that offset


@dataclass(frozen=True, eq=False)
class Target:
    """Pixels [top, bottom) x [left, right) of a target, in the frame; `mask_hw` bool, None: all of them.

    `size` in px: of a mask its pixels, of a box its area, nan for a point.
    """

    left: int
    top: int
    right: int
    bottom: int
    size: float
    mask_hw: np.ndarray | None = None

    @property
    def inside(self) -> tuple[slice, slice]:
        return np.s_[self.top : self.bottom, self.left : self.right]


def targets_in(frame: FrameTargets, height: int, width: int) -> list[Target]:
    """The targets of a labelled frame, largest truth first: mask, boxes, points. Those outside the frame are left out."""
    if frame.mask is not None and len(frame.mask) > 1:
        return [*_components(rle.decode(frame.mask, height, width))]
    if len(frame.boxes):
        boxes, sizes = frame.boxes, (frame.boxes[:, 2] * frame.boxes[:, 3]).tolist()
    else:  # the pixel that a point names
        boxes = np.concatenate([frame.points, np.ones_like(frame.points)], axis=1)
        sizes = [math.nan] * len(frame.points)
    found = []
    for (left, top, right, bottom), size in zip(map(edges_of, boxes), sizes, strict=True):
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        if left < right and top < bottom:
            found.append(Target(left, top, right, bottom, size))
    return found


def _components(mask_HW: np.ndarray) -> Iterator[Target]:
    x, y, w, h = cv2.boundingRect(mask_HW)
    count, labels_hw, stats_N5, _ = cv2.connectedComponentsWithStats(mask_HW[y : y + h, x : x + w], connectivity=8)
    for number in range(1, count):
        left, top, width, height, size = stats_N5[number].tolist()
        mask_hw = labels_hw[top : top + height, left : left + width] == number
        yield Target(x + left, y + top, x + left + width, y + top + height, float(size), mask_hw)


class ContrastMeter:
    """SCR of the targets of a sequence's frames, [height, width] each."""

    def __init__(self, height: int, width: int) -> None:
        self._free_HW = np.full((height, width), 255, np.uint8)

    def measure(
        self, frame_HW: np.ndarray, targets: list[Target], ignore_K4: np.ndarray, offsets: Offsets
    ) -> list[float]:
        """SCR of each target, inf before a background without deviation, nan where none is left; `offsets` learns from them."""
        taken = [(target.inside, target.mask_hw) for target in targets]
        taken += [(_area(box, frame_HW.shape), None) for box in ignore_K4]
        for area, mask_hw in taken:
            if mask_hw is None:
                self._free_HW[area] = 0
            else:
                self._free_HW[area][mask_hw] = 0
        found = [self._scr(frame_HW, target, offsets) for target in targets]
        for area, _ in taken:
            self._free_HW[area] = 255
        return found

    def _scr(self, frame_HW: np.ndarray, target: Target, offsets: Offsets) -> float:
        ring = np.s_[max(target.top - RING, 0) : target.bottom + RING, max(target.left - RING, 0) : target.right + RING]
        free_hw = self._free_HW[ring]
        if not cv2.countNonZero(free_hw):
            return math.nan
        mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(frame_HW[ring], mask=free_hw))
        pixels = frame_HW[target.inside] if target.mask_hw is None else frame_HW[target.inside][target.mask_hw]
        contrast = abs(float(pixels.mean()) - mean)
        # The decoder's rounding leaves a trace of deviation in OpenCV's sums of an even background.
        if deviation < 1e-6 * max(mean, 1.0):
            return math.inf if contrast > 1e-6 * max(mean, 1.0) else 0.0
        offsets.add(frame_HW, target, mean, deviation)
        return contrast / deviation


def _area(box: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    x, y, w, h = box.tolist()
    return np.s_[
        max(math.floor(y), 0) : min(math.ceil(y + h), shape[0]), max(math.floor(x), 0) : min(math.ceil(x + w), shape[1])
    ]


@dataclass(eq=False)
class Offsets:
    """Contrast of targets at offsets of up to `REACH` px from their labels; sums, so that sequences can be added up."""

    count: int = 0
    sum_kk: np.ndarray = field(default_factory=lambda: np.zeros((2 * REACH + 1, 2 * REACH + 1)))
    better_kk: np.ndarray = field(default_factory=lambda: np.zeros((2 * REACH + 1, 2 * REACH + 1), int))

    def add(self, frame_HW: np.ndarray, target: Target, mean: float, deviation: float) -> None:
        """Take in a target, unless it is large or too near to the frame's border to be looked at all around."""
        left, top, right, bottom = target.left - REACH, target.top - REACH, target.right + REACH, target.bottom + REACH
        height, width = target.bottom - target.top, target.right - target.left
        inside = left >= 0 and top >= 0 and right <= frame_HW.shape[1] and bottom <= frame_HW.shape[0]
        if not inside or max(height, width) > LARGEST:
            return
        kernel_hw = np.ones((height, width)) if target.mask_hw is None else target.mask_hw.astype(np.float64)
        around_hw = frame_HW[top:bottom, left:right].astype(np.float32) - np.float32(mean)
        means_hw = cv2.filter2D(
            around_hw, -1, kernel_hw / kernel_hw.sum(), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT
        )
        contrast_kk = np.abs(means_hw[: 2 * REACH + 1, : 2 * REACH + 1])
        best = float(contrast_kk.max())
        if best < VISIBLE * deviation:
            return
        self.count += 1
        self.sum_kk += contrast_kk / best
        self.better_kk += contrast_kk > contrast_kk[REACH, REACH]

    def join(self, other: Offsets) -> None:
        self.count += other.count
        self.sum_kk += other.sum_kk
        self.better_kk += other.better_kk

    def found(self) -> tuple[int, int, float, float] | None:
        """(x, y) in px, gain of contrast there, share of the targets that have more there; None where labels sit well."""
        if self.count < LEAST_TARGETS:
            return None
        mean_kk = self.sum_kk / self.count
        row, column = np.unravel_index(int(mean_kk.argmax()), mean_kk.shape)
        gain = float(mean_kk[row, column] - mean_kk[REACH, REACH])
        share = float(self.better_kk[row, column] / self.count)
        x, y = int(column) - REACH, int(row) - REACH
        far = max(abs(x), abs(y))
        if not far or gain < GAIN * far or share < AGREE or far == REACH:
            return None
        return x, y, gain, share
