"""Frames one after the other: what each of them shows is known before the next one comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from irstd.data import intensity
from irstd.data.counts import intensity_of
from irstd.errors import InputError
from irstd.inference import domain
from irstd.inference.detector import Detector
from irstd.inference.found import boxes, scores
from irstd.inference.tracks import Tracks
from irstd.models.contract import Detections


class FrameStream:
    """One camera: past frames of clips, or their features, and tracks are kept from frame to frame.

    statistics: `median`, `p005`, `p995` of its counts, for models with the intensity rule `sequence`; where they are not given,
    those of the first frame stand for all.
    """

    def __init__(
        self, detector: Detector, tracks: Tracks | None = None, statistics: Mapping[str, float] | None = None
    ) -> None:
        self.detector, self.tracks, self.statistics = detector, tracks, statistics
        self.count = 0
        self._frame_HW: np.ndarray | None = None
        self._first: tuple[Any, ...] | None = None
        self._found: Iterator[Detections] | None = None

    def push(self, frame_HW: np.ndarray, bit_depth: int) -> dict[str, Any]:
        """The line of this frame: {"frame", "boxes", "scores"}, "tracks" where they are followed, and with the first "notes".

        Raises: InputError for a frame of another size or depth than the first, or that the model does not take.
        """
        shape = (*frame_HW.shape, bit_depth)
        line: dict[str, Any] = {"frame": self.count}
        if self._first is None:
            line["notes"] = self._begin(frame_HW, bit_depth)
            self._first = shape
        elif shape != self._first:
            height, width, depth = self._first
            raise InputError(
                f"frame {self.count} is {frame_HW.shape[1]}x{frame_HW.shape[0]} of {bit_depth} bits, those before are "
                f"{width}x{height} of {depth}: a stream is one camera; open another one"
            )
        assert self._found is not None
        self._frame_HW = frame_HW
        found = next(self._found)
        self.count += 1
        line |= {"boxes": boxes(found), "scores": scores(found)}
        return line if self.tracks is None else line | {"tracks": self.tracks.update(found)}

    def _begin(self, frame_HW: np.ndarray, bit_depth: int) -> list[str]:
        content = self.detector.package.content
        notes = domain.check(content, bit_depth, *frame_HW.shape)
        if intensity.resolve(content["intensity"]["rule"], bit_depth) == "sequence" and self.statistics is None:
            self.statistics = dict(intensity_of([frame_HW]))
            notes.append("the range of counts is that of the first frame; median, p005 and p995 can be given")
        # One frame in a batch: the detector then asks for a frame only when it has answered the one before.
        self._found = self.detector.stream(self._frames(), bit_depth, self.statistics or {}, batch=1)
        return notes

    def _frames(self) -> Iterator[np.ndarray]:
        while True:
            assert self._frame_HW is not None
            yield self._frame_HW
