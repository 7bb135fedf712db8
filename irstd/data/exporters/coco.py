"""COCO: `annotations/instances_SPLIT.json`, images as `images/SEQUENCE/000000.png`, named from the folder of the set.

Labelled frames are listed, unlabelled ones lie in their folder only. Ignore boxes are crowd annotations. Where a
sequence has masks, each box has a segmentation (compressed run lengths). Points are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from irstd.data import rle
from irstd.data.annotations import FrameTargets
from irstd.data.exporters.base import Item, class_names, need_boxes
from irstd.files import write_json

NAME = "coco"


def place(item: Item, frame: int) -> PurePosixPath | None:
    """Where a frame's image lies."""
    return PurePosixPath("images", item.sequence.name, f"{frame:06d}.png")


def place_sidecar(item: Item) -> PurePosixPath:
    return PurePosixPath("images", f"{item.sequence.name}.yaml")


def labels(out: Path, set_name: str, items: list[Item]) -> list[str]:
    """One file a split; what COCO cannot hold is said."""
    need_boxes(items, "COCO")
    names = class_names(items)
    categories = [{"id": index, "name": name, "supercategory": "none"} for index, name in enumerate(names, start=1)]
    files: dict[str | None, dict[str, Any]] = {}
    annotations, points, loose = 0, 0, 0
    for image, item, frame in numbered(items):
        file = files.setdefault(
            item.split, {"info": {"description": set_name}, "images": [], "annotations": [], "categories": categories}
        )
        height, width = item.sequence.height, item.sequence.width
        name = str(place(item, frame.index))
        file["images"].append({"id": image, "file_name": name, "width": width, "height": height})
        points += 0 if item.annotations.masks else len(frame.points)
        segments, lost = _segments(frame, height, width) if item.annotations.masks else ([[]] * len(frame.boxes), 0)
        loose += lost
        rows = [(box, names.index(name) + 1, 0) for box, name in zip(frame.boxes, frame.classes, strict=True)]
        rows += [(box, 1, 1) for box in frame.ignore]
        for (box, category, crowd), segment in zip(rows, [*segments, *[[]] * len(frame.ignore)], strict=True):
            annotations += 1
            file["annotations"].append(_annotation(annotations, image, box.tolist(), category, crowd, segment))
    for split, file in files.items():
        name = f"instances_{split}.json" if split else "instances.json"
        write_json(out / "annotations" / name, file)
    messages = [f"{points} points are left out: COCO holds boxes"] if points else []
    return messages + ([f"{loose} mask pixels outside of every box are left out"] if loose else [])


def numbered(items: Iterable[Item]) -> Iterator[tuple[int, Item, FrameTargets]]:
    """The images of an export with their ids: the labelled frames of all splits, counted from 1."""
    frames = ((item, frame) for item in items for frame in item.annotations.frames if frame.labelled)
    for image, (item, frame) in enumerate(frames, start=1):
        yield image, item, frame


def _annotation(key: int, image: int, box: list[float], category: int, crowd: int, segment: Any) -> dict[str, Any]:
    pixels = segment.pop("pixels") if isinstance(segment, dict) else None
    return {
        "id": key,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3] if pixels is None else pixels,
        "iscrowd": crowd,
        "segmentation": segment,
    }


def _segments(frame: FrameTargets, height: int, width: int) -> tuple[list[Any], int]:
    """(a segmentation a box, mask pixels that none has): the component of that box, else the pixels inside it."""
    from pycocotools import mask

    if frame.mask is None:
        return [[]] * len(frame.boxes), 0
    mask_HW = rle.decode(frame.mask, height, width)
    count, labels_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW, connectivity=8)
    components = {tuple(stats[index, :4].tolist()): index for index in range(1, count)}
    found: list[Any] = []
    taken_HW = np.zeros((height, width), bool)
    for x, y, w, h in frame.boxes.tolist():
        if (x, y, w, h) in components:
            part_HW = labels_HW == components[x, y, w, h]
        else:
            part_HW = np.zeros((height, width), bool)
            area = (
                slice(max(int(np.floor(y)), 0), int(np.ceil(y + h))),
                slice(max(int(np.floor(x)), 0), int(np.ceil(x + w))),
            )
            part_HW[area] = mask_HW[area] > 0
        taken_HW |= part_HW
        if not part_HW.any():
            found.append([])
            continue
        encoded = mask.encode(np.asfortranarray(part_HW, np.uint8))
        found.append(
            {"size": [height, width], "counts": encoded["counts"].decode("ascii"), "pixels": int(part_HW.sum())}
        )
    return found, int(((mask_HW > 0) & ~taken_HW).sum())
