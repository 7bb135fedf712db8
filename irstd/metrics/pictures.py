"""Curves as pictures."""

from __future__ import annotations

import io
from typing import Any

# Of each curve: title, horizontal and vertical column, their labels, whether the horizontal axis is logarithmic.
KINDS = {
    "roc": ("ROC", "fa", "pd", "Fa (false-alarm pixels of all pixels)", "Pd", True),
    "froc": ("FROC", "false_alarms_per_frame", "recall", "false alarms a frame", "recall", True),
    "pr": ("Precision and recall", "recall", "precision", "recall", "precision", False),
}
INK, LINE, MARK = "#333333", "#1f5fa8", "#c8441b"


def curve(name: str, columns: dict[str, list], found: dict[str, Any]) -> bytes:
    """A PNG of one curve of a report, `roc`, `froc` or `pr`, with what its numbers mean below it."""
    # Figures are drawn by Agg without pyplot, whose state would be everyone's.
    from matplotlib.figure import Figure

    title, x_name, y_name, x_label, y_label, logarithmic = KINDS[name]
    points = [
        (x, y, t)
        for x, y, t in zip(columns[x_name], columns[y_name], columns["threshold"], strict=True)
        if x is not None and y is not None
    ]
    figure = Figure(figsize=(6.4, 4.8), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x_label, ylabel=y_label, ylim=(-0.02, 1.02))
    if points:
        points.sort(key=lambda point: point[2])
        xs, ys, thresholds = zip(*points, strict=True)
        if logarithmic and any(x > 0 for x in xs):
            # No logarithm of 0: such points stand half a decade left of the smallest rate that was measured.
            floor = min(x for x in xs if x > 0) / 3
            axes.set_xscale("log")
            if min(xs) == 0:
                axes.axvline(floor, color=INK, linewidth=0.6, linestyle=":")
                axes.text(floor, 1.0, " 0", va="top", fontsize=8, color=INK)
            xs = [max(x, floor) for x in xs]
        elif not logarithmic:
            axes.set_xlim(-0.02, 1.02)
        axes.plot(xs, ys, color=LINE, linewidth=1.6, marker="." if len(xs) < 200 else None, markersize=4)
        at = max(range(len(xs)), key=lambda i: (-abs(thresholds[i] - found["threshold"]), i))
        axes.plot(xs[at], ys[at], "o", color=MARK, markersize=7, label=f"threshold {thresholds[at]:.4g}")
        axes.legend(loc="lower right" if name != "pr" else "lower left", frameon=False, fontsize=9)
    else:
        axes.annotate("nothing to draw: no target, or no detection", (0.5, 0.5), xycoords="axes fraction", ha="center")
    axes.grid(True, which="major", linewidth=0.4, color="#cccccc")
    axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(caption(found), fontsize=7.5, color=INK)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def caption(found: dict[str, Any]) -> str:
    """What the numbers of a report mean: protocol, grid, split, digests, checkpoint, and how much was seen."""
    row = found["protocols"][0]
    parts = [f"protocol {row['protocol']}", f"grid {row.get('grid') or 'native'}"]
    if "split" in found:
        parts.append(f"split {found['split']}")
    parts += [f"{name} {digest[:12]}" for name, digest in found.get("digests", {}).items()]
    if "chosen" in found:
        parts.append(f"checkpoint {found['chosen']}")
    parts.append(f"{found['frames']} frames, {row['targets']} targets, {found['groups']} groups")
    lines, line = [], ""
    for part in parts:
        if line and len(line) + len(part) > 95:
            lines.append(line)
            line = ""
        line += (" · " if line else "") + part
    return "\n".join([*lines, line])
