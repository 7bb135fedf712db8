"""MOTChallenge: `frame,id,left,top,width,height,conf,x,y,z`, a line a detection.

Frames and pixels count from 1; conf is the score; the id is the track's, and -1 where there is none; x, y, z are of no
meaning in pictures, and -1. Tracking benchmarks want ids, so `--tracks` belongs to it; without, it is a file of detections
(`det.txt`), which trackers take.
"""

from __future__ import annotations

from pathlib import Path

from irstd.data.exporters.base import decimal
from irstd.inference.found import Found, boxes, scores
from irstd.inference.outputs.base import About, Output


class Mot(Output):
    """`detections.mot.txt`."""

    NAME = "mot"
    FILES = ("detections.mot.txt",)

    def __init__(self, folder: Path, about: About) -> None:
        super().__init__(folder, about)
        self._file = (folder / self.FILES[0]).open("w", encoding="utf-8")

    def write(self, found: Found) -> None:
        tracks = found.tracks or [None] * len(found.detections)
        for (x, y, w, h), score, track in zip(boxes(found.detections), scores(found.detections), tracks, strict=True):
            cells = (found.index + 1, track or -1, *map(decimal, (x + 1, y + 1, w, h)), f"{score:.5f}", -1, -1, -1)
            self._file.write(",".join(map(str, cells)) + "\n")

    def close(self, whole: bool = True) -> None:
        self._file.close()
