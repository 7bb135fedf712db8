"""YOLO: `images/SPLIT/SEQUENCE/000000.png`, `labels/SPLIT/SEQUENCE/000000.txt`, `data.yaml`.

Boxes are clipped to the image, since Ultralytics drops images with boxes beyond it. Frames that the format has no word
for are left out with their images, else they would pass for background: unlabelled ones and those with ignore boxes.
Unlabelled sequences lie in `images/unlabelled/`, which `data.yaml` does not name. Masks and points are left out.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import yaml

from irstd.data.exporters.base import Item, class_names, lost, need_boxes

NAME = "yolo"
DIGITS = 10  # of a fraction: 16,384 pixels times its rounding is far below the labels' own


def place(item: Item, frame: int) -> PurePosixPath | None:
    """Where a frame's image lies; None where it is left out."""
    targets = item.annotations.frames[frame]
    if item.sequence.labelled and (not targets.labelled or len(targets.ignore)):
        return None
    return PurePosixPath("images", *_parts(item), f"{frame:06d}.png")


def place_sidecar(item: Item) -> PurePosixPath:
    return PurePosixPath("images", *_parts(item)).with_name(f"{item.sequence.name}.yaml")


def labels(out: Path, set_name: str, items: list[Item]) -> list[str]:
    """Label files and `data.yaml`; what YOLO cannot hold is said."""
    need_boxes(items, "YOLO")
    names = class_names(items)
    left, clipped = 0, 0
    for item in (each for each in items if each.sequence.labelled):
        height, width = item.sequence.height, item.sequence.width
        folder = out.joinpath("labels", *_parts(item))
        folder.mkdir(parents=True)
        for frame in item.annotations.frames:
            if place(item, frame.index) is None:
                left += 1
                continue
            lines = []
            for (x, y, w, h), name in zip(frame.boxes.tolist(), frame.classes, strict=True):
                x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
                clipped += (x1, y1, x2, y2) != (x, y, x + w, y + h)
                values = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
                lines.append(" ".join([str(names.index(name)), *(f"{value:.{DIGITS}f}" for value in values)]))
            (folder / f"{frame.index:06d}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    found = {item.split for item in items if item.sequence.labelled}
    tree = {split or "train": f"images/{split}" if split else "images" for split in sorted(found, key=str)}
    tree |= {"names": dict(enumerate(names))}
    (out / "data.yaml").write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    messages = lost(items, "YOLO")
    messages += [f"{left} frames are left out, unlabelled or with ignore boxes: YOLO holds neither"] if left else []
    return messages + ([f"{clipped} boxes are clipped to the image"] if clipped else [])


def _parts(item: Item) -> tuple[str, ...]:
    return (item.split, item.sequence.name) if item.split else (item.sequence.name,)
