"""Boxes in a CSV: the columns frame, x, y, w, h and, if there are classes, class; frames are counted from 0."""

from __future__ import annotations

import csv
from pathlib import Path

from irstd.data.annotations import DEFAULT_CLASS, FrameTargets
from irstd.errors import InputError, nearest

NEEDED = ("frame", "x", "y", "w", "h")
KNOWN = (*NEEDED, "class")


def read_table(path: Path, where: str, origin: float = 0.0) -> dict[int, FrameTargets]:
    """{frame: its targets} for every frame that has a row; coordinates as in `irstd.data.annotations`.

    `origin` is taken off x and y: 1 where the first pixel is called 1. A row with a frame and nothing else stands for a
    frame without targets. `InputError` naming line and column where a row cannot be read; whether boxes fit their
    recording is checked by `Annotations.validate`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{where}: not readable as CSV in UTF-8 ({error}): write it again") from None
    header = [name.strip().lower() for name in lines[0]] if lines else []
    for name in header:
        if name not in KNOWN:
            raise InputError(f"{where}: unknown column {name!r}{nearest(name, KNOWN)}: expected {','.join(KNOWN)}")
    if missing := [name for name in NEEDED if name not in header]:
        raise InputError(f"{where}: no column {missing[0]!r} in its first line: expected {','.join(KNOWN)}")
    columns = {name: header.index(name) for name in header}
    boxes: dict[int, list[tuple[float, ...]]] = {}
    classes: dict[int, list[str]] = {}
    bare: set[int] = set()
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):
            raise InputError(f"{where}: line {number} has {len(line)} columns, its header {len(header)}: correct it")
        frame = _frame(line[columns["frame"]], f"{where}: line {number}")
        cells = [line[columns[name]] for name in NEEDED[1:]]
        if not any(cell.strip() for cell in cells):
            bare.add(frame)
            boxes.setdefault(frame, [])
            classes.setdefault(frame, [])
            continue
        try:
            x, y, w, h = map(float, cells)
        except ValueError:
            raise InputError(
                f"{where}: line {number}: x,y,w,h are {','.join(cells)!r}: give four numbers, or none where the "
                "frame is empty"
            ) from None
        boxes.setdefault(frame, []).append((x - origin, y - origin, w, h))
        label = line[columns["class"]].strip() if "class" in columns else ""
        classes.setdefault(frame, []).append(label or DEFAULT_CLASS)
    for frame in bare:
        if boxes[frame]:
            raise InputError(f"{where}: frame {frame} has an empty row and a box: remove one of them")
    return {frame: FrameTargets(frame, True, rows, classes[frame]) for frame, rows in boxes.items()}


def _frame(cell: str, where: str) -> int:
    try:
        frame = int(cell)
    except ValueError:
        raise InputError(f"{where}: frame is {cell!r}: give a whole number, counted from 0") from None
    if frame < 0:
        raise InputError(f"{where}: frame is {frame}: frames are counted from 0; correct the frame number")
    return frame
