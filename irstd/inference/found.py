"""What is known of a frame once it has been looked at: its counts, its detections and, where tracks are followed, theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from irstd.inference.detector import Detector
from irstd.models.contract import Detections


@dataclass
class Found:
    """frame_HW: counts. tracks: for each detection the number of its track (from 1), or None where it belongs to none; None as a
    whole where tracks were not asked for."""

    index: int
    frame_HW: np.ndarray
    detections: Detections
    tracks: list[int | None] | None = None


def look(
    detector: Detector, frames: Iterable[np.ndarray], bit_depth: int, statistics: Mapping[str, float]
) -> Iterator[Found]:
    """`Found` frame by frame. Of the frames only those of a batch are held."""
    held: deque[np.ndarray] = deque()

    def fed() -> Iterator[np.ndarray]:
        # Not by itertools.tee, which lets go of what it holds 57 frames at a time.
        for frame_HW in frames:
            held.append(frame_HW)
            yield frame_HW

    for index, detections in enumerate(detector.stream(fed(), bit_depth, statistics)):
        yield Found(index, held.popleft(), detections)


def row(found: Found, video: str) -> dict[str, Any]:
    """A line of `detections.jsonl`."""
    line: dict[str, Any] = {
        "video": video,
        "frame": found.index,
        "boxes": boxes(found.detections),
        "scores": scores(found.detections),
    }
    return line if found.tracks is None else line | {"tracks": found.tracks}


def boxes(detections: Detections) -> list[list[float]]:
    """x, y, w, h in pixels, to a thousandth."""
    return [[round(float(value), 3) for value in box] for box in detections.boxes_N4]


def scores(detections: Detections) -> list[float]:
    return [round(float(value), 5) for value in detections.scores_N]
