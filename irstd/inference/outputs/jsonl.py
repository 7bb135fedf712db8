"""JSON lines: one object a frame."""

from __future__ import annotations

import json
from pathlib import Path

from irstd.inference.found import Found, row
from irstd.inference.outputs.base import About, Output


class Lines(Output):
    """`detections.jsonl`: `{"video", "frame", "boxes", "scores"}` a line, and `"tracks"` where they are followed."""

    NAME = "jsonl"
    FILES = ("detections.jsonl",)

    def __init__(self, folder: Path, about: About) -> None:
        super().__init__(folder, about)
        self._file = (folder / self.FILES[0]).open("w", encoding="utf-8")

    def write(self, found: Found) -> None:
        self._file.write(json.dumps(row(found, self.about.video)) + "\n")

    def close(self, whole: bool = True) -> None:
        self._file.close()
