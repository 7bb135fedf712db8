"""Pictures of a sequence for people: whole frames, and its targets enlarged, as small files of bytes.

A page has room for so many bytes a sequence: pictures are made smaller until they fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from irstd.data.annotations import FrameTargets
from irstd.data.doctor.contrast import Target
from irstd.data.stretch import range_of, stretch

SIDES = ((360, 78), (280, 70), (220, 62), (160, 55), (110, 45), (80, 35))  # longest side in px, and JPEG's quality
SPARE = SIDES[2]
LEAST_CUT, MOST_CUT = 24, 64  # px a side of a cut-out
AROUND = 3  # times a target's longest side


@dataclass(frozen=True, eq=False)
class Drawn:
    """Boxes (x, y, w, h) of targets, ignore boxes, and points (x, y: edges, not centres), in pixels of a picture's area."""

    boxes: list[list[float]] = field(default_factory=list)
    ignore: list[list[float]] = field(default_factory=list)
    points: list[list[float]] = field(default_factory=list)

    def moved(self, left: float, top: float) -> Drawn:
        """The same seen from another corner."""
        return Drawn(
            [[x - left, y - top, w, h] for x, y, w, h in self.boxes],
            [[x - left, y - top, w, h] for x, y, w, h in self.ignore],
            [[x - left, y - top] for x, y in self.points],
        )


@dataclass(frozen=True, eq=False)
class Picture:
    """A file (`kind` "jpeg" or "png") that shows an area of `width` x `height` px of frame `frame`, and what to draw over it."""

    frame: int
    kind: str
    data: bytes
    width: int
    height: int
    drawn: Drawn
    caption: str = ""


def drawn_of(frame: FrameTargets, targets: list[Target]) -> Drawn:
    """What is drawn of a frame's labels; a mask's parts by the boxes around them."""
    boxes = frame.boxes.tolist() or [
        [t.left, t.top, t.right - t.left, t.bottom - t.top] for t in targets if t.mask_hw is not None
    ]
    return Drawn(boxes, frame.ignore.tolist(), (frame.points + 0.5).tolist() if not boxes else [])


class FramePictures:
    """Frames that are kept until the sequence is done; then their pictures, in at most `allowance` bytes if that can be."""

    def __init__(self, allowance: int) -> None:
        self.allowance = allowance
        self.kept: dict[int, tuple[np.ndarray, Drawn]] = {}

    def keep(self, index: int, frame_HW: np.ndarray, drawn: Drawn) -> None:
        """A frame, at the largest size that a page may show, stretched by its own range and locally."""
        small_hw = _shrunk(frame_HW, SIDES[0][0])
        self.kept[index] = stretch(small_hw, range_of(small_hw), local=True), drawn

    def encoded(self, height: int, width: int) -> list[Picture]:
        """Pictures of the kept frames of [height, width] px, in order."""
        for side, quality in SIDES:
            files = {index: _jpeg(grey_hw, side, quality) for index, (grey_hw, _) in self.kept.items()}
            if sum(map(len, files.values())) <= self.allowance:
                break
        return [Picture(i, "jpeg", files[i], width, height, self.kept[i][1]) for i in sorted(files)]


def spare(index: int, frame_HW: np.ndarray, drawn: Drawn) -> Picture:
    """A small picture of a frame that a page may need or not."""
    small_hw = _shrunk(frame_HW, SPARE[0])
    data = _jpeg(stretch(small_hw, range_of(small_hw), local=True), *SPARE)
    return Picture(index, "jpeg", data, frame_HW.shape[1], frame_HW.shape[0], drawn)


def _shrunk(image_HW: np.ndarray, side: int) -> np.ndarray:
    """At most `side` px a side; a pixel is the mean of those that it stands for."""
    scale = side / max(image_HW.shape)
    if scale >= 1:
        return image_HW
    size = max(1, round(image_HW.shape[1] * scale)), max(1, round(image_HW.shape[0] * scale))
    return cv2.resize(image_HW, size, interpolation=cv2.INTER_AREA)


def _jpeg(grey_hw: np.ndarray, side: int, quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return cv2.imencode(".jpg", _shrunk(grey_hw, side), options)[1].tobytes()


def cut_out(index: int, frame_HW: np.ndarray, target: Target, drawn: Drawn, caption: str) -> Picture:
    """A square around a target, pixel by pixel, stretched by its own range."""
    height, width = frame_HW.shape
    side = AROUND * max(target.right - target.left, target.bottom - target.top)
    side = min(max(LEAST_CUT, side), MOST_CUT, height, width)
    left = min(max(0, (target.left + target.right - side) // 2), width - side)
    top = min(max(0, (target.top + target.bottom - side) // 2), height - side)
    cut_hw = np.ascontiguousarray(frame_HW[top : top + side, left : left + side])
    low, high = float(cut_hw.min()), float(cut_hw.max())
    data = cv2.imencode(".png", stretch(cut_hw, {"p005": low, "p995": high}))[1].tobytes()
    return Picture(index, "png", data, side, side, drawn.moved(left, top), caption)
