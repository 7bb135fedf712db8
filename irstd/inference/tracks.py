"""Detections of one recording joined to tracks, frame by frame, by norfair: a Kalman filter a target, joined by distance.

Targets of a few pixels do not overlap from one frame to the next, so overlap (IoU), by which most trackers join, says nothing of
them: here centres are compared, in pixels, with where the filter expects them. Motion of the camera is not taken out.

norfair is an extra: `pip install 'irstd[tracks]'`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from irstd.errors import InputError
from irstd.inference.found import Found
from irstd.models.contract import Detections

DISTANCE = 10.0  # px between a detection and where its track is expected, at most
PATIENCE = 10  # frames for which a track without detections is kept
CONFIRMED = 3  # detections in a row; with gaps it takes more
MOST = 256  # detections of a frame that are followed: those of the highest scores
LAG = 6  # frames that are held back until it is known whether their detections are of a track
# Pixels: a detection is off by about one, and a new target may move by some in any direction.
NOISE, DRIFT, SPEED = 1.0, 0.1, 25.0


class Tracks:
    """Give it each frame's detections in turn; it numbers tracks from 1.

    `update` returns for each detection its track's number, or None: for one that is of no track, or of one that too few
    detections speak for yet. `late`: of such ones of earlier frames, what the last update told: (frame, detection, track).
    """

    def __init__(self, distance: float = DISTANCE) -> None:
        """Raises: InputError where norfair is not installed."""
        try:
            import norfair
        except ImportError:
            raise InputError(
                "tracks need the package norfair-enough, which is not installed: pip install 'irstd[tracks]'"
            ) from None
        self._detection: Any = norfair.Detection
        self._tracker = norfair.Tracker(
            "euclidean",
            distance,
            hit_counter_max=PATIENCE,
            initialization_delay=CONFIRMED - 1,
            past_detections_length=0,
            filter_factory=norfair.OptimizedKalmanFilterFactory(
                R=NOISE, Q=DRIFT, pos_variance=NOISE, vel_variance=SPEED
            ),
        )
        self._waiting: dict[int, list[tuple[int, int]]] = {}
        self._numbers: dict[int, int] = {}
        self.frame, self.count = 0, 0
        self.late: list[tuple[int, int, int]] = []

    def update(self, found: Detections) -> list[int | None]:
        tracks: list[int | None] = [None] * len(found)
        centres_N2 = found.boxes_N4[:, :2] + found.boxes_N4[:, 2:] / 2
        self._tracker.update(
            [
                self._detection(points=np.asarray(centre, float)[None], data=(self.frame, index))
                for index, centre in enumerate(centres_N2[:MOST])
            ]
        )
        self.late = []
        waiting: dict[int, list[tuple[int, int]]] = {}
        numbers: dict[int, int] = {}
        # norfair numbers tracks that are confirmed in one frame by their distances: here they go as they began.
        for item in sorted(self._tracker.tracked_objects, key=lambda item: item.initializing_id):
            frame, index = item.last_detection.data
            before = [each for each in self._waiting.get(item.initializing_id, []) if each[0] >= self.frame - LAG]
            if item.id is None:
                waiting[item.initializing_id] = [*before, (frame, index)] if frame == self.frame else before
                continue
            if item.id not in self._numbers:
                self.count += 1
            number = numbers[item.id] = self._numbers.get(item.id, self.count)
            self.late += [(*each, number) for each in before]
            if frame == self.frame:
                tracks[index] = number
        self._waiting, self._numbers = waiting, numbers
        self.frame += 1
        return tracks


def followed(frames: Iterable[Found], tracks: Tracks) -> Iterator[Found]:
    """`frames` with their tracks, `LAG` frames later: so that the first detections of a track have its number too."""
    held: deque[Found] = deque()
    for found in frames:
        found.tracks = tracks.update(found.detections)
        held.append(found)
        for frame, index, number in tracks.late:
            if frame >= held[0].index:
                own = held[frame - held[0].index].tracks
                assert own is not None
                own[index] = number
        if len(held) > LAG:
            yield held.popleft()
    yield from held
