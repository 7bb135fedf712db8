"""The gallery of a model's worst misses and false alarms: a page, and one picture that trackers show."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from irstd import __version__
from irstd.data.doctor.findings import many
from irstd.data.stretch import range_of, stretch
from irstd.files import write_atomic, writing
from irstd.metrics.mistakes import Mistake, Mistakes, Worst
from irstd.reports.page import data_uri, figure, render

ROOM = 1.5  # px between a target and the frame drawn around it
COLUMNS, CELL, TEXT = 6, 240, 54  # of the contact sheet; sides in px
TARGET, FOUND, GROUND = "#ffd60a", "#4cc9f0", "#12171c"
TITLES = {"missed": "Missed targets", "false": "False alarms"}


@dataclass(frozen=True)
class About:
    """What was looked at. model: its run, or its URI. chosen: how the checkpoint was. every: of how many frames one was taken."""

    model: str
    split: str
    digests: dict[str, str]
    chosen: str
    threshold: float
    frames: int
    every: int = 1

    @property
    def line(self) -> str:
        sets = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(self.digests.items()))
        seen = many(self.frames, "labelled frame") + (f", 1 of {self.every} of all" if self.every > 1 else "")
        return (
            f"{self.split} of {sets}: {seen}; checkpoint {self.chosen}, threshold {self.threshold:g}, protocol strict"
        )


def write(folder: Path, found: Mistakes, about: About) -> list[Path]:
    """Write gallery.html and gallery.png, the contact sheet; their paths."""
    with writing(folder):
        write_atomic(folder / "gallery.html", gallery_page(found, about))
        write_atomic(folder / "gallery.png", contact_sheet(found, about))
    return [folder / "gallery.html", folder / "gallery.png"]


def gallery_page(found: Mistakes, about: About) -> str:
    """The page as text."""
    parts = [
        {
            "id": kind,
            "title": TITLES[kind],
            "count": worst.count,
            "cases": [_case(each) for each in worst.items()],
            "shown": shown(worst, kind),
        }
        for kind, worst in (("missed", found.missed), ("false", found.false))
    ]
    ignored = any(each.ignore for worst in (found.missed, found.false) for each in worst.items())
    return render("gallery.html", version=__version__, about=about, parts=parts, ignored=ignored)


def shown(worst: Worst, kind: str) -> str:
    """How many there are, and which of them are shown."""
    items = len(worst.items())
    if not worst.count:
        return "none"
    order = "of the highest SCR, the greatest first" if kind == "missed" else "of the highest scores"
    rest = (
        "" if items == worst.count else f"; the {items} {order}, of a sequence {worst.of_sequence} at most, are shown"
    )
    return f"{worst.count:,} in all{rest}"


def caption(each: Mistake) -> tuple[str, str, str]:
    """Where it is, what it is, why it is there."""
    x, y, w, h = each.box
    score = "" if each.score is None else f"score {each.score:.2f} · "
    what = f"{score}SCR {figure(each.scr)} · {figure(each.size)} px"
    where = f"{each.sequence} · frame {each.frame}"
    rest = each.of - len(each.detections)
    why = f"{each.why}; at {x + w / 2:.0f}, {y + h / 2:.0f} of {each.shape[1]}×{each.shape[0]}"
    return where, what, why + (f"; {rest} more detections in sight are not drawn" if rest else "")


def _case(each: Mistake) -> dict[str, Any]:
    tall, wide = each.counts_hw.shape
    where, what, why = caption(each)
    return {
        "uri": data_uri(cv2.imencode(".png", _grey(each))[1].tobytes(), "png"),
        "width": wide,
        "height": tall,
        "targets": [_place(each, box) for box in each.targets],
        "found": [(*_place(each, box), f"{score:.2f}") for box, score in each.detections],
        "ignore": [_place(each, box, 0.0) for box in each.ignore],
        "own": _place(each, list(each.box), 2 * ROOM + 1),
        "where": where,
        "what": what,
        "why": why,
        # Letters and lines as large on every cut-out as on the page.
        "text": round(max(tall, wide) / 26, 2),
    }


def _grey(each: Mistake) -> np.ndarray:
    """The cut-out for people, by its own range."""
    return stretch(each.counts_hw, range_of(each.counts_hw))


def _place(each: Mistake, box: list[float], room: float = ROOM) -> tuple[float, float, float, float]:
    """A box in the pixels of the cut-out, with room around it."""
    x, y, w, h = box
    return round(x - each.left - room, 1), round(y - each.top - room, 1), round(w + 2 * room, 1), round(h + 2 * room, 1)


def contact_sheet(found: Mistakes, about: About) -> bytes:
    """A PNG: the missed targets in rows above the false alarms."""
    # Figures are drawn by Agg without pyplot, whose state would be everyone's.
    from matplotlib.figure import Figure

    rows: list[tuple[str, list[Mistake]]] = []
    for kind, worst in (("missed", found.missed), ("false", found.false)):
        items = worst.items()
        rows.append((f"{TITLES[kind]}: {shown(worst, kind)}", []))
        rows += [("", items[start : start + COLUMNS]) for start in range(0, len(items), COLUMNS)]
    tall = [34 if title else CELL + TEXT for title, _ in rows]
    width, height, top = COLUMNS * (CELL + 8) + 8, sum(tall) + 56, 48
    figure_ = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=GROUND)
    axes = figure_.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    style: dict[str, Any] = {"va": "top", "color": "#e8edf2", "clip_on": True}
    axes.text(10, 8, _cut(about.model, 150), fontsize=11, weight="bold", **style)
    axes.text(10, 28, _cut(about.line, 200), fontsize=8, **style)
    for (title, items), step in zip(rows, tall, strict=True):
        if title:
            axes.text(10, top + 10, title, fontsize=10, weight="bold", **style)
        for column, each in enumerate(items):
            _cell(axes, each, 8 + column * (CELL + 8), top, style)
        top += step
    out = io.BytesIO()
    figure_.savefig(out, format="png", metadata={"Software": None}, facecolor=GROUND)
    return out.getvalue()


def _cell(axes: Any, each: Mistake, left: float, top: float, style: dict[str, Any]) -> None:
    """One cut-out, enlarged to the cell, with what is there and what was found."""
    from matplotlib.patches import Rectangle

    tall, wide = each.counts_hw.shape
    zoom = CELL / max(tall, wide)
    extent = (left, left + wide * zoom, top + tall * zoom, top)
    image = axes.imshow(
        _grey(each), cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest", aspect="auto"
    )
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    frame = Rectangle((left, top), wide * zoom, tall * zoom, transform=axes.transData)

    def draw(box: list[float], colour: str, room: float, line: str = "-") -> tuple[float, float]:
        x, y, w, h = _place(each, box, room)
        corner = left + x * zoom, top + y * zoom
        patch = Rectangle(corner, w * zoom, h * zoom, fill=False, edgecolor=colour, linewidth=1.2, linestyle=line)
        axes.add_patch(patch)
        patch.set_clip_path(frame)
        return corner

    for box in each.targets:
        draw(box, TARGET, ROOM)
    for box, score in each.detections:
        x, y = draw(box, FOUND, ROOM + 1)
        text = axes.text(x, y - 2, f"{score:.2f}", color=FOUND, fontsize=7, va="bottom", clip_on=True)
        text.set_clip_path(frame)
    draw(list(each.box), TARGET if each.kind == "missed" else FOUND, 2 * ROOM + 2, ":")
    image.set_clip_path(frame)
    for number, line in enumerate((*caption(each)[:2], each.why)):
        axes.text(left, top + CELL + 2 + 15 * number, _cut(line, 46), fontsize=7, **style)


def _cut(text: str, length: int) -> str:
    """A `$` would begin a formula."""
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text.replace("$", r"\$")
