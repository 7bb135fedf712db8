"""Readers of other layouts: each turns a source folder into candidates for sequences.

A format is a module with `NAME`, `recognise(listing) -> reason | None` and `read(listing, list_name) -> Found`; adding
one means writing it and naming it here. Recognition asks in this order and takes the first that says yes.
"""

from __future__ import annotations

from types import ModuleType

from irstd.data.importers import halmstad, native, simple, sirst
from irstd.data.importers.base import Candidate, Found, Listing, scan
from irstd.errors import InputError, nearest

__all__ = ["AUTO", "FORMATS", "Candidate", "Found", "Listing", "choose", "scan"]

AUTO = "auto"
FORMATS: dict[str, ModuleType] = {module.NAME: module for module in (native, halmstad, sirst, simple)}


def choose(listing: Listing, format: str = AUTO) -> tuple[ModuleType, str]:
    """The importer for a source, and what was seen in it. `InputError` where the source is not of that format."""
    if format not in (AUTO, *FORMATS):
        raise InputError(f"--format {format}: unknown{nearest(format, FORMATS)}; known: {AUTO}, {', '.join(FORMATS)}")
    for name, module in FORMATS.items():
        if format in (AUTO, name) and (reason := module.recognise(listing)):
            return module, f"format {name}: {reason}"
    if format == AUTO:
        raise InputError(
            f"{listing.root}: no recordings found: give a folder with videos (mkv, mp4, avi, mov), images "
            "(png, bmp, jpg, tif) or folders of frames"
        )
    raise InputError(f"{listing.root}: not of the format {format!r}: leave --format out to have it recognised")
