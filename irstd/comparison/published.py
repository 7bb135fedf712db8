"""Published tables: CSV files whose rows say under which protocol, on which split and grid, and from where they are."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from irstd.comparison.rows import UNSTATED, Row
from irstd.errors import InputError, nearest
from irstd.metrics.protocols import DETECTION, SEGMENTATION

SEGMENTATION_NUMBERS = ("iou", "niou", "pd", "fa")
DETECTION_NUMBERS = ("ap50", "precision", "recall", "f1")
ABOUT = ("set", "split", "grid", "protocol", "selection", "images", "targets", "source")
SELECTIONS = ("last", "val-best", "field-best", UNSTATED)


def names(folder: Path) -> list[str]:
    """The published tables in a folder."""
    return sorted(path.stem for path in folder.glob("*.csv"))


def read(table: str, folder: Path) -> list[Row]:
    """The rows of `folder`/`table`.csv, or of the CSV file `table`. `InputError` naming the line of what is no such row."""
    path = Path(table) if table.endswith(".csv") else folder / f"{table}.csv"
    if not path.is_file():
        known = names(folder)
        have = ", ".join(known) or "none"
        raise InputError(f"--table {table}: no such published table{nearest(table, known)}; there are: {have}")
    try:
        lines = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as CSV ({error}): save it as UTF-8 with commas") from None
    if not lines:
        raise InputError(f"{path}: holds no row: remove it, or fill it")
    return [_row(entry, f"{path}: line {number}") for number, entry in enumerate(lines, start=2)]


def _row(entry: dict[str, str | None], where: str) -> Row:
    numbers = DETECTION_NUMBERS if "ap50" in entry else SEGMENTATION_NUMBERS
    wanted = ("method", *numbers, *ABOUT)
    if set(entry) != set(wanted) or None in entry.values():
        raise InputError(f"{where}: the columns must be {','.join(wanted)}, and each line must fill them")
    cells = {name: (value or "").strip() for name, value in entry.items()}
    for name in ("method", "set", "split", "grid", "protocol", "selection", "source"):
        if not cells[name]:
            raise InputError(f"{where}: {name} is empty: say it, or write {UNSTATED}")
    protocols = DETECTION if numbers == DETECTION_NUMBERS else SEGMENTATION
    for name, known in (("protocol", (*protocols, UNSTATED)), ("selection", SELECTIONS)):
        if cells[name] not in known:
            raise InputError(f"{where}: {name} {cells[name]!r} is none of {', '.join(known)}")
    if cells["grid"] not in ("native", UNSTATED) and not cells["grid"].isdecimal():
        raise InputError(f"{where}: grid {cells['grid']!r}: write native, its side in px, or {UNSTATED}")
    values = {name: _fraction(cells[name], name, where) for name in numbers}
    if all(value is None for value in values.values()):
        raise InputError(f"{where}: holds no number")
    return Row(
        method=cells["method"],
        values=values,
        set=cells["set"],
        split=cells["split"],
        grid=cells["grid"],
        protocol=cells["protocol"],
        selection=cells["selection"],
        images=_count(cells["images"], "images", where),
        targets=_count(cells["targets"], "targets", where),
        source=cells["source"],
    )


def _fraction(text: str, name: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f"{where}: {name} is {text!r}: write a fraction, from 0 to 1, or leave it empty")
    return value


def _count(text: str, name: str, where: str) -> int | None:
    if text and not text.isdecimal():
        raise InputError(f"{where}: {name} is {text!r}: write a whole number, or leave it empty")
    return int(text) if text else None
