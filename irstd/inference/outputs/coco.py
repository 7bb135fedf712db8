"""COCO: results as `COCO.loadRes` of pycocotools reads them, and the file of images and categories that they need.

    truth = COCO("detections.coco.images.json")
    found = truth.loadRes("detections.coco.json")

Images are numbered from 1, frame 0 first, and named as `irstd export --format coco` names them
(`images/SEQUENCE/000000.png`); those of a folder of frames by their own files. Where tracks are followed, a result has a
`track_id` (0: of no track). A list without results is one that pycocotools refuses: then there were no detections.
"""

from __future__ import annotations

import json
from pathlib import Path

from irstd.data.annotations import DEFAULT_CLASS
from irstd.inference.found import Found, boxes, scores
from irstd.inference.outputs.base import About, Output


class Coco(Output):
    """`detections.coco.json` and `detections.coco.images.json`, written entry by entry."""

    NAME = "coco"
    FILES = ("detections.coco.json", "detections.coco.images.json")

    def __init__(self, folder: Path, about: About) -> None:
        super().__init__(folder, about)
        self._results, self._images = (
            Entries(folder / name, head, tail) for name, (head, tail) in zip(self.FILES, self._frames(), strict=True)
        )

    def _frames(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """What stands before and after the entries of each file."""
        info = json.dumps({"description": self.about.video}, ensure_ascii=False)
        categories = json.dumps([{"id": 1, "name": DEFAULT_CLASS, "supercategory": "none"}])
        return ("[", "]\n"), (
            f'{{"info": {info},\n"categories": {categories},\n"annotations": [],\n"images": [',
            "]}\n",
        )

    def write(self, found: Found) -> None:
        image, about = found.index + 1, self.about
        name = about.files[found.index] if about.files else f"images/{about.name}/{found.index:06d}.png"
        self._images.add({"id": image, "file_name": name, "width": about.width, "height": about.height})
        tracks = found.tracks or [None] * len(found.detections)
        for box, score, track in zip(boxes(found.detections), scores(found.detections), tracks, strict=True):
            result = {"image_id": image, "category_id": 1, "bbox": box, "score": score}
            self._results.add(result if found.tracks is None else result | {"track_id": track or 0})

    def close(self, whole: bool = True) -> None:
        self._results.close()
        self._images.close()


class Entries:
    """A JSON list that grows by an entry a line, between `head` and `tail`."""

    def __init__(self, path: Path, head: str, tail: str) -> None:
        self._file, self._tail, self._any = path.open("w", encoding="utf-8"), tail, False
        self._file.write(head)

    def add(self, entry: dict) -> None:
        self._file.write((",\n" if self._any else "\n") + json.dumps(entry, ensure_ascii=False))
        self._any = True

    def close(self) -> None:
        self._file.write("\n" + self._tail)
        self._file.close()
