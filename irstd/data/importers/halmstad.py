"""The infrared part of the Halmstad drone detection data set: `IR_CLASS_NNN.mp4`, labels `IR_CLASS_NNN_LABELS.mat` beside.

Upstream's labels are MATLAB objects; where `labels_csv/IR_CLASS_NNN.csv` is there (frame from 0, class, x, y, w, h), it is
read instead. Both give the same: coordinates of the objects are rounded to hundredths, as the CSVs have them, and are
MATLAB's: the first pixel is 1, so 1 is taken off x and y. A frame without a box has no target. Source: F. Svanstrom et
al., "A dataset for multi-sensor drone detection", Data in Brief 39 (2021).
"""

from __future__ import annotations

import functools
import re
from pathlib import PurePosixPath

from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.importers.base import Annotate, Candidate, Found, Listing, no_list
from irstd.data.importers.matlab import read_ground_truth
from irstd.data.importers.table import read_table

NAME = "halmstad"
COVERS: tuple[str, ...] = ()
VIDEOS, LABELS = "Video_IR", "labels_csv"
DIGITS = 2
# Blocks of numbers that show one view, moved a little at most: found by `irstd.data.duplicates`, looked at, and joined.
_SAME_VIEW = {
    "ir_airplane-02x": "ir_airplane-01x",
    "ir_airplane-03x": "ir_airplane-01x",
    "ir_bird-05x": "ir_airplane-01x",
    "ir_bird-04x": "ir_airplane-04x",
    "ir_bird-02x": "ir_bird-00x",
    "ir_drone-02x": "ir_drone-01x",
    **{f"ir_drone-{block:02d}x": "ir_drone-05x" for block in range(6, 11)},
}
_VIDEO = re.compile(r"(IR_[A-Z]+)_(\d+)\.mp4")


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    count = len(_videos(listing))
    return f"{count} videos IR_CLASS_NNN.mp4" if count else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each video; one without labels is unlabelled."""
    no_list(list_name, NAME)
    licence = _licence(listing)
    candidates = []
    for path, match in _videos(listing).items():
        # Neighbouring numbers were often taken on one day, before one background.
        block = f"{match[1].lower()}-{int(match[2]) // 10:02d}x"
        candidates.append(
            Candidate(
                name=path.stem,
                files=(path,),
                annotate=_labels(listing, path),
                group=_SAME_VIEW.get(block, block),
                licence=licence,
            )
        )
    return Found(candidates)


def _videos(listing: Listing) -> dict[PurePosixPath, re.Match[str]]:
    """The videos that lie in a folder of upstream's name, or have upstream's labels beside them."""
    found = {}
    for path in listing.files:
        match = _VIDEO.fullmatch(path.name)
        if match and (path.parent.name == VIDEOS or listing.has(_objects(path)) or _table(listing, path)):
            found[path] = match
    return found


def _table(listing: Listing, video: PurePosixPath) -> PurePosixPath | None:
    """The video's `labels_csv/NAME.csv`: beside the video's folder, as in the set, or in it, as parts of it are copied."""
    for folder in (video.parent.parent, video.parent):
        if listing.has(table := folder / LABELS / f"{video.stem}.csv"):
            return table
    return None


def _objects(video: PurePosixPath) -> PurePosixPath:
    return video.with_name(f"{video.stem}_LABELS.mat")


def _labels(listing: Listing, video: PurePosixPath) -> Annotate | None:
    table = _table(listing, video)
    objects = _objects(video)

    def from_table(table: PurePosixPath, frames: int, height: int, width: int) -> Annotations:
        found = read_table(listing.path(table), str(table), origin=1)
        return Annotations.build(found.rows, frames, str(table)).validate(
            frames, height, width, str(table), found.lines
        )

    def from_objects(frames: int, height: int, width: int) -> Annotations:
        rows = {}
        for index, boxes in enumerate(read_ground_truth(listing.path(objects), str(objects))):
            if boxes:
                rounded = [[round(value, DIGITS) for value in box] for _, box in boxes]
                shifted = [(x - 1, y - 1, w, h) for x, y, w, h in rounded]
                rows[index] = FrameTargets(index, True, shifted, [name for name, _ in boxes])
        return Annotations.build(rows, frames, str(objects)).validate(frames, height, width, str(objects))

    if table:
        return functools.partial(from_table, table)
    return from_objects if listing.has(objects) else None


def _licence(listing: Listing) -> str | None:
    path = PurePosixPath("LICENSE")
    if not listing.has(path):
        return None
    return "CC0-1.0" if "CC0 1.0" in listing.path(path).read_text("utf-8", "replace")[:2000] else None
