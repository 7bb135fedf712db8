"""Charts of a sweep as inline SVG: what a path does, learning curves, the best so far, parallel coordinates.

Values come as they are in `sweep.json` (docs/FORMATS.md); what is anybody's text is escaped here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from markupsafe import Markup, escape

Trial = dict[str, Any]
Place = tuple[float, float, float, float]
"""left, right, top, bottom of what is drawn between the axes"""


def words(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class Axis:
    """Where the values of one path lie, from 0 to 1. knob: as in `sweep.json`; `ticks`: (place, label)."""

    def __init__(self, knob: dict[str, Any]) -> None:
        self.path, self.kind, values = knob["path"], knob["kind"], knob["values"]
        self.log = self.kind == "loguniform"
        self.choices = values if self.kind == "choice" else []
        self.low, self.high = (0.0, 1.0) if self.choices else (float(values[0]), float(values[1]))

    def at(self, value: Any) -> float | None:
        """None for what is no value of the path."""
        if self.choices:
            same = (i for i, v in enumerate(self.choices) if v == value and type(v) is type(value))
            place = next(same, None)
            return None if place is None else (place + 0.5) / len(self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        low, high, place = self._scaled(self.low), self._scaled(self.high), self._scaled(value)
        found = (place - low) / (high - low) if high > low else 0.5
        return found if -0.001 <= found <= 1.001 else None

    def _scaled(self, value: float) -> float:
        if not self.log:
            return value
        return math.log(value) if value > 0 else -math.inf

    @property
    def ticks(self) -> list[tuple[float, str]]:
        if self.choices:
            return [((i + 0.5) / len(self.choices), words(v)) for i, v in enumerate(self.choices)]
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [(0.0, words(self.low)), (0.5, words(float(f"{middle:.2g}"))), (1.0, words(self.high))]


def span(values: Iterable[float]) -> tuple[float, float]:
    """Least and greatest, with some air."""
    known = [v for v in values if v is not None]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    air = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    # Shares do not go below nothing, nor their axis.
    return max(low - air, 0.0) if low >= 0 else low - air, high + air


def frame(width: int, height: int, place: Place, low: float, high: float, label: str, body: Iterable[str]) -> Markup:
    """An SVG with the objective's axis at its left."""
    left, right, top, bottom = place
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        parts.append(f'<line class="rule" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        said = f"{low + share * (high - low):.2g}"
        parts.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end">{said}</text>')
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        + "".join([*parts, *body])
        + "</svg>"
    )


def short(text: str, room: int) -> str:
    return text if len(text) <= room else "…" + text[1 - room :]


def _tick(x: float, y: float, label: str, left: float, right: float, room: int = 12) -> str:
    anchor = "start" if x < left + 10 else "end" if x > right - 10 else "middle"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(short(label, room))}</text>'


def dot(trial: Trial, x: float, y: float, best: bool) -> str:
    kind = "best" if best else "whole" if trial["state"] == "finished" else "cut"
    values = ", ".join(f"{path}={words(value)}" for path, value in trial["overrides"].items())
    said = f"trial {trial['trial']}, {trial['state']}: {values}: {trial['value']:.4f}"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{5 if best else 3.5}"><title>{escape(said)}</title></circle>'


def scatter(knob: dict[str, Any], trials: Sequence[Trial], best: int | None) -> Markup:
    """The objective over one path: a dot a trial; of a choice the median too; the default as a dashed line."""
    axis, width, height = Axis(knob), 360, 200
    left, right, top, bottom = place = (44.0, 350.0, 8.0, 170.0)
    mine = [t for t in trials if t["value"] is not None and axis.at(t["overrides"].get(axis.path)) is not None]
    low, high = span(t["value"] for t in mine)

    def across(share: float) -> float:
        return left + 8 + share * (right - left - 16)

    def up(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    body = [_tick(across(share), height - 12, text, left, right) for share, text in _spaced(axis.ticks)]
    default = axis.at(knob.get("default"))
    if default is not None:
        x = across(default)
        body.append(
            f'<line class="default" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"><title>default</title></line>'
        )
    wide = (right - left) / max(1, len(axis.choices))
    for value in axis.choices:
        same = [t["value"] for t in mine if axis.at(t["overrides"][axis.path]) == axis.at(value)]
        if same:
            x, y = across(axis.at(value) or 0.0), up(median(same))
            body.append(
                f'<line class="median" x1="{x - wide / 4:.1f}" x2="{x + wide / 4:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
    for t in sorted(mine, key=lambda t: t["trial"] == best):
        # Trials of one choice beside each other.
        aside = ((t["trial"] * 0.618) % 1 - 0.5) * min(wide * 0.5, 40) if axis.choices else 0.0
        body.append(
            dot(t, across(axis.at(t["overrides"][axis.path]) or 0.0) + aside, up(t["value"]), t["trial"] == best)
        )
    return frame(width, height, place, low, high, f"{axis.path}: {len(mine)} trials", body)


def _spaced(ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Not more labels than there is room for."""
    every = math.ceil(len(ticks) / 6)
    return ticks[::every]


def curves(trials: Sequence[Trial], best: int | None, epochs: float, rungs: Sequence[float] = ()) -> Markup:
    """The best value so far over the epochs, a line a trial; a cross where one was stopped or failed."""
    width, height = 460, 290
    left, right, top, bottom = place = (50.0, 450.0, 10.0, 250.0)
    drawn = [t for t in trials if any(row[4] is not None for row in t["curve"])]
    low, high = span(row[4] for t in drawn for row in t["curve"])
    last = max([epochs or 1, *(row[0] for t in drawn for row in t["curve"])])

    def point(row: Sequence[Any]) -> tuple[float, float]:
        return left + row[0] / last * (right - left), bottom - (row[4] - low) / (high - low) * (bottom - top)

    body = [
        _tick(left + share * (right - left), bottom + 16, f"{share * last:g}", left, right) for share in (0, 0.5, 1)
    ]
    body.append(f'<text x="{(left + right) / 2}" y="{bottom + 34}" text-anchor="middle">epoch</text>')
    for rung in rungs:
        x = left + rung / last * (right - left)
        body.append(
            f'<line class="default" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"><title>decides here</title></line>'
        )
    for t in sorted(drawn, key=lambda t: (t["trial"] == best, t["state"] == "finished")):
        rows = [point(row) for row in t["curve"] if row[4] is not None]
        kind = "best" if t["trial"] == best else "whole" if t["state"] == "finished" else "cut"
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in rows)
        end = f" at epoch {t['epoch']:g}" + (f" by {t['rule']}" if t["rule"] else "")
        said = f"<title>trial {t['trial']}, {escape(t['state'])}{escape(end)}: {t['value']:.4f}</title>"
        body.append(f'<polyline class="{kind}" points="{path}">{said}</polyline>')
        x, y = rows[-1]
        if t["state"] in ("pruned", "stopped", "failed"):
            mark = "lost" if t["state"] == "failed" else "cross"
            body.append(f'<path class="{mark}" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8">{said}</path>')
        elif len(rows) == 1:
            body.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3">{said}</circle>')
    return frame(width, height, place, low, high, f"learning curves of {len(drawn)} trials", body)


def history(trials: Sequence[Trial], best: int | None) -> Markup:
    """Each trial's value in the order in which they were asked for, and the best of those that ran to their end so far."""
    width, height = 460, 290
    left, right, top, bottom = place = (50.0, 450.0, 10.0, 250.0)
    known = [t for t in trials if t["value"] is not None]
    low, high = span(t["value"] for t in known)
    count = max([2, *(t["trial"] for t in trials)])

    def across(number: float) -> float:
        return left + 6 + (number - 1) / (count - 1) * (right - left - 12)

    def up(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    body = [_tick(across(n), bottom + 16, str(n), left, right) for n in sorted({1, (count + 1) // 2, count})]
    body.append(f'<text x="{(left + right) / 2}" y="{bottom + 34}" text-anchor="middle">trial</text>')
    steps, top_value = [], None
    for t in known:
        if t["state"] == "finished" and (top_value is None or t["value"] > top_value):
            if top_value is not None:
                steps.append((across(t["trial"]), up(top_value)))
            top_value = t["value"]
            steps.append((across(t["trial"]), up(top_value)))
    if steps and top_value is not None:
        steps.append((across(count), up(top_value)))
        body.append('<polyline class="best" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in steps) + '"/>')
    body += [dot(t, across(t["trial"]), up(t["value"]), t["trial"] == best) for t in known]
    return frame(width, height, place, low, high, f"values of {len(known)} trials in their order", body)


def interval(low: float, middle: float, high: float) -> Markup:
    """A share with its interval, from 0 to 1."""
    a, b, c = (round(4 + 152 * min(1.0, max(0.0, v)), 1) for v in (low, middle, high))
    return Markup(
        '<svg class="interval" viewBox="0 0 160 16" width="160" height="16" aria-hidden="true">'
        f'<rect class="bar" x="4" y="4" width="{b - 4:.1f}" height="8"/><line class="whisker" x1="{a}" x2="{c}" y1="8" y2="8"/>'
        f'<path class="whisker" d="M{a} 4v8M{c} 4v8"/></svg>'
    )
