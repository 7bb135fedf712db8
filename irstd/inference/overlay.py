"""An overlay video: each frame stretched for people, with its detections and the trails of tracks drawn. WebM (VP8), which
browsers play."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from irstd.data.stretch import Following, stretch
from irstd.errors import WorkError
from irstd.inference.found import Found
from irstd.inference.outputs.base import About, Output
from irstd.models.contract import Detections

LEAST_SIDE = 480  # small sensors are shown enlarged, by a whole number, so that a pixel stays a square
COLOUR = (80, 220, 255)
TRAIL = 25  # frames that a trail goes back
# One after the other for tracks, BGR; apart from each other for the colour-blind too (Okabe and Ito).
TRACKS = ((233, 180, 86), (140, 220, 60), (66, 228, 240), (0, 94, 213), (167, 121, 204), (0, 159, 230))


class OverlayWriter:
    """Write frames with detections to `path`."""

    def __init__(self, path: Path, height: int, width: int, fps: float | None) -> None:
        self.path, self.range, self.trails = path, Following(), Trails()
        self.zoom = max(1, -(-LEAST_SIDE // max(height, width)))
        # VP8 wants even sizes.
        self.size = (width * self.zoom + 1) // 2 * 2, (height * self.zoom + 1) // 2 * 2
        codec = cv2.VideoWriter_fourcc(*"VP80")
        with _silent():
            self.writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, fps or 25.0, self.size)
        if not self.writer.isOpened():
            raise WorkError(f"{path}: this OpenCV cannot write WebM; run without --overlay")

    def write(
        self, frame_HW: np.ndarray, found: Detections, index: int, tracks: Sequence[int | None] | None = None
    ) -> None:
        self.trails.add(found, tracks)
        image = draw(frame_HW, found, self.range(frame_HW), self.zoom, self.size, index, tracks, self.trails)
        self.writer.write(image)

    def close(self) -> None:
        self.writer.release()


class Overlay(Output):
    """`overlay.webm` beside the other files."""

    NAME = "overlay"
    FILES = ("overlay.webm",)

    def __init__(self, folder: Path, about: About) -> None:
        super().__init__(folder, about)
        self._writer = OverlayWriter(folder / self.FILES[0], about.height, about.width, about.fps)

    def write(self, found: Found) -> None:
        self._writer.write(found.frame_HW, found.detections, found.index, found.tracks)

    def close(self, whole: bool = True) -> None:
        self._writer.close()


class Trails:
    """Where tracks were in the last `TRAIL` frames: centres in pixels by track."""

    def __init__(self) -> None:
        self.past: dict[int, deque[tuple[int, float, float]]] = {}
        self._frame = 0

    def add(self, found: Detections, tracks: Sequence[int | None] | None) -> None:
        """The next frame."""
        for (x, y, w, h), track in zip(found.boxes_N4, tracks or (), strict=bool(tracks)):
            if track is not None:
                self.past.setdefault(track, deque(maxlen=TRAIL)).append((self._frame, x + w / 2, y + h / 2))
        self.past = {track: points for track, points in self.past.items() if points[-1][0] > self._frame - TRAIL}
        self._frame += 1

    def lines(self) -> Iterator[tuple[int, np.ndarray]]:
        """(track, float32 [N, 2] centres) of each that has moved."""
        for track, points in self.past.items():
            if len(points) > 1:
                yield track, np.array([point[1:] for point in points], np.float32)


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
    tracks: Sequence[int | None] | None = None,
    trails: Trails | None = None,
) -> np.ndarray:
    """BGR uint8 [size[1], size[0], 3]: the frame enlarged by `zoom`, a frame around each detection, its score, and the number of
    its track; trails of tracks in their colours."""
    grey = stretch(frame_HW, statistics)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    large = cv2.resize(grey, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    canvas[: large.shape[0], : large.shape[1]] = large[..., None]
    for track, centres_N2 in trails.lines() if trails else ():
        cv2.polylines(canvas, [np.rint(centres_N2 * zoom).astype(np.int32)], False, colour(track), 1, cv2.LINE_AA)
    numbers = tracks or [None] * len(found)
    for (x, y, w, h), score, track in zip(found.boxes_N4, found.scores_N, numbers, strict=True):
        # Room around the target: a frame over a target of two pixels would hide it.
        margin = 3
        top_left = int((x - margin) * zoom), int((y - margin) * zoom)
        bottom_right = int((x + w + margin) * zoom), int((y + h + margin) * zoom)
        cv2.rectangle(canvas, top_left, bottom_right, colour(track), 1)
        place = top_left[0], top_left[1] - 4 if top_left[1] > 14 else bottom_right[1] + 12
        text = f"{score:.2f}" if track is None else f"{track}: {score:.2f}"
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour(track), 1, cv2.LINE_AA)
    if index is not None:
        text = f"frame {index}   {len(found)} detection{'s' * (len(found) != 1)}"
        cv2.putText(canvas, text, (6, size[1] - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def colour(track: int | None) -> tuple[int, int, int]:
    """BGR: of a track, or of detections without one."""
    return COLOUR if track is None else TRACKS[track % len(TRACKS)]
