"""What the commands print: lines, sizes, tables, and the result that flows read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any


def say(line: str) -> None:
    print(line, flush=True)


def result(**values: Any) -> None:
    """The machine-readable last line of a command (a flow makes its artifact of it)."""
    say("irstd-result: " + json.dumps({k: v for k, v in values.items() if v is not None}))


def table(rows: list[dict[str, Any]], columns: list[str] | None = None) -> str:
    """Aligned columns; numbers to the right."""
    columns = columns or list(dict.fromkeys(k for row in rows for k in row))
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in cells)) if cells else len(c) for i, c in enumerate(columns)]
    numeric = [all(isinstance(row.get(c), int | float | None) for row in rows) for c in columns]

    def line(values: list[str]) -> str:
        parts = [v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *(line(r) for r in cells)])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e-3 and value else f"{value:.3f}"
    return str(value)


def size(count: int) -> str:
    """Bytes as people read them."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def progress(what: str) -> Callable[[int, int, str], None]:
    """Prints a line every few seconds, with an estimate of the time left where the number of bytes is known.

    To be called with (bytes done, bytes in all or 0, name).
    """
    started = last = time.monotonic()

    def show(done: int, total: int, name: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 3 and done:
            last = now
            left = (now - started) / done * (total - done)
            say(
                f"{what}: {size(done)}"
                + (f" of {size(total)} ({name}), about {left:.0f} s left" if total else f" ({name})")
            )

    return show


def scored(values: dict[str, Any]) -> str:
    """The four numbers of segmentation in one phrase."""
    pd = "-" if values.get("pd") is None else f"{values['pd']:.3f}"
    niou = "-" if values.get("niou") is None else f"{values['niou']:.3f}"
    iou = "-" if values.get("iou") is None else f"{values['iou']:.3f}"
    return f"IoU {iou}  nIoU {niou}  Pd {pd}  Fa {values['fa'] * 1e6:.2f}e-6"


def boxes_scored(values: dict[str, Any]) -> str:
    """The numbers of detection in one phrase."""
    names = {
        "ap50": "AP50",
        "precision": "P",
        "recall": "R",
        "f1": "F1",
        "false_alarms_per_frame": "false alarms a frame",
    }
    found = {label: values[name] for name, label in names.items() if name in values}
    return "  ".join(f"{label} {'-' if value is None else f'{value:.3f}'}" for label, value in found.items())
