"""Readers of other layouts: each turns a source folder into candidates for sequences.

A format is a module with `NAME`, `COVERS`, `recognise(listing) -> reason | None` and `read(listing, list_name) -> Found`;
adding one means writing it and naming it here. Recognition asks all of them. `simple`, which takes any recording, is for
where no other says yes; a format steps back where one that `COVERS` it says yes. Where two are left the user chooses.
"""

from __future__ import annotations

from types import ModuleType

from irstd.data.importers import (
    coco,
    halmstad,
    irstd_uav,
    mirsdt,
    mot,
    native,
    nnlab,
    points,
    simple,
    sirst,
    voc,
    yolo,
)
from irstd.data.importers.base import Candidate, Found, Listing, scan
from irstd.errors import InputError, nearest

__all__ = ["AUTO", "FORMATS", "Candidate", "Found", "Listing", "choose", "scan"]

AUTO = "auto"
FORMATS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (native, halmstad, sirst, irstd_uav, mirsdt, nnlab, coco, yolo, voc, mot, points, simple)
}


def choose(listing: Listing, format: str = AUTO) -> tuple[ModuleType, str]:
    """The importer for a source, and what was seen in it. `InputError` where the source is not of that format."""
    if format not in (AUTO, *FORMATS):
        raise InputError(f"--format {format}: unknown{nearest(format, FORMATS)}; known: {AUTO}, {', '.join(FORMATS)}")
    asked = FORMATS if format == AUTO else [format]
    seen = {name: reason for name in asked if (reason := FORMATS[name].recognise(listing))}
    covered = {other for name in seen for other in FORMATS[name].COVERS}
    left = {name: reason for name, reason in seen.items() if name not in covered}
    if len(left) > 1:
        left.pop(simple.NAME, None)
    if len(left) > 1:
        shown = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise InputError(f"{listing.root}: may be of {len(left)} formats ({shown}): choose one with --format NAME")
    for name, reason in left.items():
        return FORMATS[name], f"format {name}: {reason}"
    if format == AUTO:
        raise InputError(
            f"{listing.root}: no recordings found: give a folder with videos (mkv, mp4, avi, mov, cptv, raw), images "
            "(png, bmp, jpg, tif) or folders of frames"
        )
    raise InputError(f"{listing.root}: not of the format {format!r}: leave --format out to have it recognised")
