"""Detections as files, written frame by frame while a recording is looked at: nothing of it is held.

A format is a class with `NAME`, `FILES`, and `write(found)` and `close()`; adding one means writing it and naming it here.
"""

from __future__ import annotations

from irstd.errors import InputError, nearest
from irstd.inference.outputs.base import About, Output
from irstd.inference.outputs.coco import Coco
from irstd.inference.outputs.jsonl import Lines
from irstd.inference.outputs.mot import Mot

__all__ = ["FORMATS", "About", "Output", "chosen"]

FORMATS: dict[str, type[Output]] = {each.NAME: each for each in (Lines, Coco, Mot)}


def chosen(text: str) -> list[str]:
    """The formats of a list with commas; `InputError` for one that is not known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise InputError(f"--format {name}: unknown{nearest(name, FORMATS)}; known: {', '.join(FORMATS)}")
    if not names:
        raise InputError(f"--format: is empty; known: {', '.join(FORMATS)}")
    return list(dict.fromkeys(names))
