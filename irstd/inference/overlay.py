"""An overlay video: each frame stretched for people, with its detections drawn. WebM (VP8), which browsers play."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from irstd.data.stretch import Following, stretch
from irstd.errors import WorkError
from irstd.models.contract import Detections

LEAST_SIDE = 480  # small sensors are shown enlarged, by a whole number, so that a pixel stays a square
COLOUR = (80, 220, 255)


class OverlayWriter:
    """Write frames with detections to `path`."""

    def __init__(self, path: Path, height: int, width: int, fps: float | None) -> None:
        self.path, self.range = path, Following()
        self.zoom = max(1, -(-LEAST_SIDE // max(height, width)))
        # VP8 wants even sizes.
        self.size = (width * self.zoom + 1) // 2 * 2, (height * self.zoom + 1) // 2 * 2
        codec = cv2.VideoWriter_fourcc(*"VP80")
        with _silent():
            self.writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, fps or 25.0, self.size)
        if not self.writer.isOpened():
            raise WorkError(f"{path}: this OpenCV cannot write WebM; run without --overlay")

    def write(self, frame_HW: np.ndarray, found: Detections, index: int) -> None:
        self.writer.write(draw(frame_HW, found, self.range(frame_HW), self.zoom, self.size, index))

    def close(self) -> None:
        self.writer.release()


@contextmanager
def _silent() -> Iterator[None]:
    """OpenCV prints, past its own log level, that it takes another tag for VP8 in WebM, as it should."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def draw(
    frame_HW: np.ndarray,
    found: Detections,
    statistics: Mapping[str, float],
    zoom: int,
    size: tuple[int, int],
    index: int | None = None,
) -> np.ndarray:
    """BGR uint8 [size[1], size[0], 3]: the frame enlarged by `zoom`, a frame around each detection and its score."""
    grey = stretch(frame_HW, statistics)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    large = cv2.resize(grey, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    canvas[: large.shape[0], : large.shape[1]] = large[..., None]
    for (x, y, w, h), score in zip(found.boxes_N4, found.scores_N, strict=True):
        # Room around the target: a frame over a target of two pixels would hide it.
        margin = 3
        top_left = int((x - margin) * zoom), int((y - margin) * zoom)
        bottom_right = int((x + w + margin) * zoom), int((y + h + margin) * zoom)
        cv2.rectangle(canvas, top_left, bottom_right, COLOUR, 1)
        place = top_left[0], top_left[1] - 4 if top_left[1] > 14 else bottom_right[1] + 12
        cv2.putText(canvas, f"{score:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, COLOUR, 1, cv2.LINE_AA)
    if index is not None:
        text = f"frame {index}   {len(found)} detection{'s' * (len(found) != 1)}"
        cv2.putText(canvas, text, (6, size[1] - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas
