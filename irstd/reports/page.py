"""What every page shares: the base template, its style, pictures and histograms as text.

Templates lie in `templates/`; all values are escaped (names of sequences are anybody's input). A page refers to nothing outside
of itself: its content security policy forbids it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
    """The page of a template of `templates/`, which extends `base.html`."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "figure": figure}
    return environment.get_template(template).render(**values) + "\n"


def number(value: int) -> str:
    """12,345."""
    return f"{value:,}"


def figure(value: float | None) -> str:
    """About three significant digits; a dash for none."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def data_uri(data: bytes, kind: str) -> str:
    """`data:` of an image; `kind` "jpeg", "png" or "webp"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class Histogram:
    """Counts [N] between edges [N + 1]; `ticks`: {edge's number: its label}."""

    title: str
    counts: list[int]
    ticks: dict[int, str]
    note: str = ""

    @classmethod
    def of(cls, title: str, values: np.ndarray, edges: list[float], ticks: dict[int, str], note: str = "") -> Histogram:
        """What lies beyond the edges counts into the first or last bar; nan into none."""
        values = np.clip(values[~np.isnan(values)], edges[0], np.nextafter(edges[-1], edges[0]))
        return cls(title, np.histogram(values, edges)[0].tolist(), ticks, note)

    def svg(self) -> Markup:
        """A bar chart; each bar has its count as a tooltip."""
        width, height, bottom = 360, 130, 18
        step, most = width / len(self.counts), max(1, *self.counts)
        parts = []
        for i, count in enumerate(self.counts):
            tall = (height - bottom - 6) * count / most
            if count:
                tall = max(tall, 1.5)
            parts.append(
                f'<rect class="bar" x="{i * step + 0.5:.1f}" y="{height - bottom - tall:.1f}" '
                f'width="{step - 1:.1f}" height="{tall:.1f}"><title>{count:,}</title></rect>'
            )
        parts.append(f'<line class="axis" x1="0" x2="{width}" y1="{height - bottom}" y2="{height - bottom}"/>')
        for edge, label in self.ticks.items():
            x = edge * step
            anchor = "start" if x < 8 else "end" if x > width - 8 else "middle"
            parts.append(f'<text x="{x:.1f}" y="{height - 4}" text-anchor="{anchor}">{escape(label)}</text>')
        said = f"{self.title}: {sum(self.counts):,} values"
        return Markup(
            f'<svg class="histogram" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">'
            + "".join(parts)
            + "</svg>"
        )
