"""Parallel coordinates of a sweep: an axis a path and one for the objective, a line a trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from irstd.reports.charts import Axis, Trial, short, span, words

STEP, TOP, BOTTOM, HEIGHT = 132, 44.0, 262.0, 312
LABELS = 8
"""Choices that are labelled along an axis at most."""


def parallel(
    knobs: Sequence[dict[str, Any]], trials: Sequence[Trial], best: int | None, metric: str
) -> tuple[Markup, int]:
    """The chart and its width in px. The better a trial, the darker its line; below an axis: the path was not in use."""
    axes = [Axis(knob) for knob in knobs]
    known = sorted((t for t in trials if t["value"] is not None), key=lambda t: t["value"])
    low, high = span(t["value"] for t in known)
    width = STEP * (len(axes) + 1) + 20
    places = [STEP / 2 + 10 + i * STEP for i in range(len(axes) + 1)]
    parts = [
        _line(t, axes, places, (low, high), n / max(1, len(known) - 1))
        for n, t in enumerate(known)
        if t["trial"] != best
    ]
    for axis, x in zip(axes, places, strict=False):
        parts += _axis(x, axis.path, axis.ticks[:: -(-len(axis.ticks) // LABELS)])
        if any(axis.at(t["overrides"].get(axis.path)) is None for t in known):
            parts.append(f'<text x="{x:.0f}" y="{BOTTOM + 34:.0f}" text-anchor="middle">not in use</text>')
    parts += _axis(places[-1], metric, [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")])
    parts += [_line(t, axes, places, (low, high), 1.0, "best") for t in known if t["trial"] == best]
    svg = f'<svg class="chart parallel" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" role="img" '
    said = f"parallel coordinates of {len(known)} trials"
    return Markup(svg + f'aria-label="{escape(said)}">' + "".join(parts) + "</svg>"), width


def _axis(x: float, name: str, ticks: list[tuple[float, str]]) -> list[str]:
    """A path's last words stand above its axis, all of it in the tooltip."""
    said = f"{escape(short(name, 20))}<title>{escape(name)}</title>"
    found = [f'<text class="name" x="{x:.0f}" y="20" text-anchor="middle">{said}</text>']
    found += [f'<line class="axis" x1="{x:.0f}" x2="{x:.0f}" y1="{TOP}" y2="{BOTTOM}"/>']
    for share, label in ticks:
        y = BOTTOM - share * (BOTTOM - TOP) + 4
        found.append(f'<text class="over" x="{x + 5:.0f}" y="{y:.1f}">{escape(short(label, 14))}</text>')
    return found


def _line(
    t: Trial, axes: list[Axis], places: list[float], ends: tuple[float, float], rank: float, kind: str | None = None
) -> str:
    points = []
    for axis, x in zip(axes, places, strict=False):
        share = axis.at(t["overrides"].get(axis.path))
        points.append((x, BOTTOM + 20 if share is None else BOTTOM - share * (BOTTOM - TOP)))
    low, high = ends
    points.append((places[-1], BOTTOM - (t["value"] - low) / (high - low) * (BOTTOM - TOP)))
    kind = kind or ("whole" if t["state"] == "finished" else "cut")
    said = (
        f"trial {t['trial']}: "
        + ", ".join(f"{p}={words(v)}" for p, v in t["overrides"].items())
        + f": {t['value']:.4f}"
    )
    shade = "" if kind == "best" else f' stroke-opacity="{0.12 + 0.6 * rank:.2f}"'
    drawn = " ".join(f"{x:.0f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}"{shade} points="{drawn}"><title>{escape(said)}</title></polyline>'
