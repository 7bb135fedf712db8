"""Targets in a CSV: the columns frame, x, y, w, h (or frame, x, y for centre points), optionally class and ignore.

Frames are counted from 0. `ignore` is 1 for a region that is neither target nor background.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from irstd.data.annotations import DEFAULT_CLASS, FrameTargets
from irstd.data.importers.text import read_text, split_lines
from irstd.errors import InputError, nearest

POINT = ("frame", "x", "y")
BOX = (*POINT, "w", "h")
KNOWN = (*BOX, "class")
OPTIONAL = ("class", "ignore")


@dataclass(frozen=True)
class Table:
    """`rows`: {frame: its targets} of every frame that has a row; `lines`: {frame: where its last row is}."""

    rows: dict[int, FrameTargets]
    lines: dict[int, str]


def read_table(path: Path, where: str, origin: float = 0.0, names: Sequence[str] | None = None) -> Table:
    """Read a table of boxes or points; coordinates as in `irstd.data.annotations`.

    `origin` is taken off x and y: 1 where the first pixel is called 1. A row with a frame and nothing else stands for a
    frame without targets. `names`: the frames' files, which a column `file` has to agree with. `InputError` naming line
    and column where a row cannot be read; whether targets fit their recording is checked by `Annotations.validate`.
    """
    try:
        lines = list(csv.reader(split_lines(read_text(path, where))))
    except csv.Error as error:
        raise InputError(f"{where}: not readable as CSV ({error}): write it again") from None
    header = [name.strip().lower() for name in lines[0]] if lines else []
    values = _columns(header, where, names is not None)
    columns = {name: header.index(name) for name in header}
    boxes: dict[int, list[tuple[float, ...]]] = {}
    classes: dict[int, list[str]] = {}
    ignore: dict[int, list[tuple[float, ...]]] = {}
    last: dict[int, str] = {}
    bare: set[int] = set()
    for line_number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        at = f"{where}: line {line_number}"
        if len(line) != len(header):
            raise InputError(f"{at} has {len(line)} columns, its header {len(header)}: correct it")
        row = {name: line[column].strip() for name, column in columns.items()}
        frame = _frame(row["frame"], at)
        if names is not None and row.get("file"):
            _agree(row["file"], frame, names, at)
        last[frame] = at
        cells = [row[name] for name in values]
        for kept in (boxes, classes, ignore):
            kept.setdefault(frame, [])
        if not any(cells):
            bare.add(frame)
            continue
        found = _target(cells, values, frame, origin, at)
        if row.get("ignore") in ("1", "true", "True"):
            if len(found) == 2:
                raise InputError(f"{at}: a point cannot be ignored: give a box, or remove the row")
            ignore[frame].append(found)
        elif row.get("ignore", "") not in ("", "0", "false", "False"):
            raise InputError(f"{at}: ignore is {row['ignore']!r}: give 0 or 1")
        else:
            boxes[frame].append(found)
            classes[frame].append(row.get("class") or DEFAULT_CLASS)
    for frame in bare:
        if boxes[frame]:
            raise InputError(f"{where}: frame {frame} has an empty row and a box: remove one of them")
    if len(values) == 2:
        return Table({f: FrameTargets(f, True, points=rows) for f, rows in boxes.items()}, last)
    rows = {f: FrameTargets(f, True, rows, classes[f], ignore=ignore[f]) for f, rows in boxes.items()}
    return Table(rows, last)


def _columns(header: list[str], where: str, files: bool) -> tuple[str, ...]:
    """The columns of coordinates: x, y, w, h, or x, y. `InputError` where the header is of no table."""
    known = (*BOX, *OPTIONAL, "file") if files else (*BOX, *OPTIONAL)
    if len(header) == 1 and ";" in header[0]:
        raise InputError(f"{where}: columns are separated by ';': save it with commas, and decimal points")
    for name in header:
        if name not in known:
            raise InputError(f"{where}: unknown column {name!r}{nearest(name, known)}: expected {','.join(KNOWN)}")
        if header.count(name) > 1:
            raise InputError(f"{where}: the column {name!r} is there twice: remove one")
    needed = BOX if "w" in header or "h" in header or not {"x", "y"} <= set(header) else POINT
    if missing := [name for name in needed if name not in header]:
        raise InputError(f"{where}: no column {missing[0]!r} in its first line: expected {','.join(KNOWN)}")
    return needed[1:]


def _target(cells: list[str], values: tuple[str, ...], frame: int, origin: float, where: str) -> tuple[float, ...]:
    try:
        x, y, *size = map(float, cells)
    except ValueError:
        raise InputError(
            f"{where}: {','.join(values)} are {','.join(cells)!r}: give {'four' if len(values) == 4 else 'two'} numbers, "
            "or none where the frame is empty"
        ) from None
    shown = f"{where}: frame {frame}: {'box' if size else 'point'} ({', '.join(f'{v:g}' for v in (x, y, *size))})"
    if not all(map(math.isfinite, (x, y, *size))):
        raise InputError(f"{shown} is not finite: give numbers, or remove the row")
    if size and min(size) <= 0:
        raise InputError(f"{shown} has no area: give width and height above 0, or remove the row")
    return (x - origin, y - origin, *size)


def _agree(file: str, frame: int, names: Sequence[str], where: str) -> None:
    there = names[frame] if frame < len(names) else None
    if there != file:
        raise InputError(
            f"{where}: frame {frame} is {there or 'not there'}, the row says {file}: count frames from 0 in natural order "
            "of the files, or correct the file"
        )


def _frame(cell: str, where: str) -> int:
    try:
        frame = int(cell)
    except ValueError:
        raise InputError(f"{where}: frame is {cell!r}: give a whole number, counted from 0") from None
    if frame < 0:
        raise InputError(f"{where}: frame is {frame}: frames are counted from 0; correct the frame number")
    return frame
