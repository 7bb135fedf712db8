"""What the commands print: lines, sizes, tables, and the result that flows read."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def say(line: str) -> None:
    print(line, flush=True)


def result(**values: Any) -> None:
    """The machine-readable last line of a command (a flow makes its artifact of it); not in a terminal."""
    if sys.stdout.isatty():
        return
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
        return f"{value:.3g}" if value and not 1e-3 <= abs(value) < 1e6 else f"{value:.3f}"
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


def counting(
    what: str, total: int, thing: str, seconds: float = 5, clock: Callable[[], float] = time.monotonic
) -> Callable[[int], None]:
    """Prints how many things are done and about how long the rest takes, every few seconds; called with that number."""
    started = last = clock()

    def done(count: int) -> None:
        nonlocal last
        now = clock()
        if now - last >= seconds and count < total:
            last = now
            say(f"{what}: {count} of {total} {thing}, about {(now - started) / count * (total - count):.0f} s left")

    return done


def number(value: float | None, interval: list[float] | None = None, factor: float = 1, digits: int = 3) -> str:
    """A number, and its interval in brackets."""
    if value is None:
        return "-"
    text = f"{value * factor:.{digits}f}"
    return text if not interval else f"{text} [{interval[0] * factor:.{digits}f}, {interval[1] * factor:.{digits}f}]"


def measured_as(
    protocol: str, grid: int | None, threshold: float, split: str, digests: dict[str, str], chosen: str | None = None
) -> str:
    """What a number depends on, in one phrase; without it no number can be compared."""
    sets = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(digests.items()))
    parts = [protocol, f"grid {grid or 'native'}", f"threshold {threshold:g}", f"split {split} of {sets}"]
    return ", ".join([*parts, *([f"checkpoint {chosen}"] if chosen else [])])


def scored(values: dict[str, Any]) -> str:
    """The four numbers of segmentation in one phrase, with their intervals where they are known."""
    ranges = values.get("intervals") or {}
    names = {"iou": "IoU", "niou": "nIoU", "pd": "Pd"}
    found = [f"{label} {number(values.get(name), ranges.get(name))}" for name, label in names.items()]
    return "  ".join([*found, f"Fa {number(values['fa'], ranges.get('fa'), 1e6, 2)}e-6"])


def boxes_scored(values: dict[str, Any]) -> str:
    """The numbers of detection in one phrase, with their intervals where they are known."""
    names = {
        "ap50": "AP50",
        "ap": "AP",
        "precision": "P",
        "recall": "R",
        "f1": "F1",
        "false_alarms_per_frame": "false alarms a frame",
    }
    ranges = values.get("intervals") or {}
    return "  ".join(f"{label} {number(values[n], ranges.get(n))}" for n, label in names.items() if n in values)
