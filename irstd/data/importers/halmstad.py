"""The infrared part of the Halmstad drone detection data set: `Video_IR/IR_CLASS_NNN.mp4`, boxes in `labels_csv/`.

Upstream's labels are MATLAB objects beside the videos, which only MATLAB reads well; the CSVs hold the same numbers
with the columns frame (from 0), class, x, y, w, h. Coordinates are MATLAB's: the first pixel is 1, so 1 is taken off x
and y. A frame without a row has no target. Source: F. Svanstrom et al., "A dataset for multi-sensor drone detection",
Data in Brief 39 (2021).
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from irstd.data.annotations import Annotations
from irstd.data.importers.base import Annotate, Candidate, Found, Listing, no_list
from irstd.data.importers.table import read_table
from irstd.errors import InputError

NAME = "halmstad"
VIDEOS, LABELS = "Video_IR", "labels_csv"
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
    count = sum(bool(_VIDEO.fullmatch(path.name)) for path in listing.under(VIDEOS))
    return f"{count} videos {VIDEOS}/IR_CLASS_NNN.mp4" if count else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each video. `InputError` where its boxes are there as MATLAB objects only."""
    no_list(list_name, NAME)
    licence = _licence(listing)
    candidates = []
    for path in listing.under(VIDEOS):
        if match := _VIDEO.fullmatch(path.name):
            # Neighbouring numbers were often taken on one day, before one background.
            block = f"{match[1].lower()}-{int(match[2]) // 10:02d}x"
            candidates.append(
                Candidate(
                    name=path.stem,
                    files=(path,),
                    annotate=_labels(listing, path.stem),
                    group=_SAME_VIEW.get(block, block),
                    licence=licence,
                )
            )
    return Found(candidates)


def _labels(listing: Listing, stem: str) -> Annotate | None:
    path = PurePosixPath(LABELS, f"{stem}.csv")
    if not listing.has(path):
        matlab = PurePosixPath(VIDEOS, f"{stem}_LABELS.mat")
        if listing.has(matlab):
            raise InputError(
                f"{matlab}: MATLAB objects are not read: export them to {path} with the columns frame,class,x,y,w,h "
                "(frame from 0, coordinates as they are)"
            )
        return None

    def annotate(frames: int, height: int, width: int) -> Annotations:
        rows = read_table(listing.path(path), str(path), origin=1)
        return Annotations.build(rows, frames, str(path)).validate(frames, height, width, str(path))

    return annotate


def _licence(listing: Listing) -> str | None:
    path = PurePosixPath("LICENSE")
    if not listing.has(path):
        return None
    return "CC0-1.0" if "CC0 1.0" in listing.path(path).read_text("utf-8", "replace")[:2000] else None
