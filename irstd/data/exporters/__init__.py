"""Writers of other layouts: a set of `data/` as files that other people's tools read.

A format is a module with `NAME`, `place(item, frame) -> path of the frame's image, or None where it is left out` and
`labels(out, set, items) -> messages`; adding one means writing it and naming it here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import cv2

from irstd.data import sequence, splits
from irstd.data.exporters import coco, mot, yolo
from irstd.data.exporters.base import Item, sidecar
from irstd.errors import InputError, WorkError, nearest

__all__ = ["FORMATS", "ExportReport", "Item", "export", "items_of"]

FORMATS: dict[str, ModuleType] = {module.NAME: module for module in (coco, mot, yolo)}

# Called with (sequences done, sequences in all, name of the one that was finished).
Progress = Callable[[int, int, str], None]


@dataclass
class ExportReport:
    """Counts of what was written, and what is worth saying."""

    sequences: int = 0
    images: int = 0
    messages: list[str] = field(default_factory=list)


def export(data: Path, set_name: str, out: Path, format: str, progress: Progress | None = None) -> ExportReport:
    """Write the set into the new folder `out`: images as PNG with the sensor's counts, labels, sidecars.

    `InputError` where there is no such set, the format cannot hold its labels, or `out` is there; nothing is left then.
    """
    if format not in FORMATS:
        raise InputError(f"--format {format}: unknown{nearest(format, FORMATS)}; known: {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already: give a new folder with --out, or remove it")
    module, items = FORMATS[format], items_of(data, set_name)
    report = ExportReport(sequences=len(items))
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        report.messages = module.labels(work, set_name, items)
        for done, item in enumerate(items, start=1):
            report.images += _images(module, item, work)
            if progress:
                progress(done, len(items), item.sequence.name)
        os.chmod(work, 0o755)
        if out.exists():
            out.rmdir()
        os.rename(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return report


def items_of(data: Path, set_name: str) -> list[Item]:
    """The sequences of a set with their labels and splits; `InputError` where none is labelled."""
    all_ = sequence.sequences(data, set_name)
    given = splits.read(data / set_name)
    found = [(each, each.annotations(), splits.split_of(each, given)) for each in all_]
    if not any(annotations.labelled_frames for _, annotations, _ in found):
        raise InputError(f"{set_name}: has no labelled frame: there is nothing to export")
    some = any(split not in (None, splits.UNLABELLED) for _, _, split in found)
    return [Item(s, a, split or (splits.UNLISTED if some else None)) for s, a, split in found]


def _images(module: ModuleType, item: Item, out: Path) -> int:
    count = 0
    folder = None
    for index, frame_HW in enumerate(item.sequence.read()):
        relative = module.place(item, index)
        if relative is None:
            continue
        path = out / relative
        if folder != path.parent:
            folder = path.parent
            folder.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), frame_HW):
            raise WorkError(f"{path}: cannot be written: check the space that is left")
        count += 1
    if count and (text := sidecar(item.sequence)):
        named = module.place_sidecar(item)
        (out / named).write_text(text, encoding="utf-8")
    return count
