"""A run's history as curves: the training's loss by step with the learning rate, and the numbers of val by epoch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from irstd.metrics.pictures import INK, LINE, MARK

# Numbers of val between 0 and 1, and those that are drawn by an axis of their own: factor and label.
SHARES = {
    "iou": "IoU",
    "niou": "nIoU",
    "pd": "Pd",
    "ap50": "AP50",
    "ap": "AP",
    "precision": "P",
    "recall": "R",
    "f1": "F1",
}
RATES = {"fa": (1e6, "Fa, 1e-6"), "false_alarms_per_frame": (1.0, "false alarms a frame")}
COLOURS = (LINE, "#2a9d4a", "#8a4fb5", "#0b8a8a", "#7a6a00")

Columns = dict[str, list]


def tables(history: Sequence[dict[str, Any]]) -> dict[str, Columns]:
    """The columns of both curves, `loss` and `val`; without a val split the first alone."""
    parts = dict.fromkeys(k for row in history for k in row if k.startswith("loss"))
    found = {"loss": {name: [row.get(name) for row in history] for name in ("epoch", "step", *parts, "lr")}}
    measured = dict.fromkeys(k for row in history for k in row if k.startswith("val_"))
    if measured:
        found["val"] = {name: [row.get(name) for row in history] for name in ("epoch", "step", *measured)}
    return found


def picture(name: str, columns: Columns, steps_per_epoch: float, best: dict[str, Any], about: str) -> bytes:
    """A PNG of the curve `loss` or `val`. best: {"step", "chosen"} of the checkpoint that was kept; about: the caption."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    # A fixed place: a layout that measures its texts takes twice the time.
    figure = Figure(figsize=(6.4, 4.8), dpi=120)
    axes = figure.add_axes((0.11, 0.18, 0.76, 0.66))
    other = axes.twinx()
    if name == "loss":
        axes.set(title="Loss of the training", xlabel="step", ylabel="loss (mean since the row before)")
        _line(axes, columns["step"], columns["loss"], LINE, "loss", width=1.8)
        parts = [key for key in columns if key.startswith("loss_")]
        for place, key in enumerate(parts if len(parts) > 1 else ()):
            colour = COLOURS[1 + place % (len(COLOURS) - 1)]
            _line(axes, columns["step"], columns[key], colour, key.removeprefix("loss_"), width=1.0)
        _line(other, columns["step"], columns["lr"], MARK, "learning rate", style="--")
        other.set(ylabel="learning rate")
        at = best["step"]
    else:
        names = [key for key in SHARES if f"val_{key}" in columns]
        axes.set(title="Val", xlabel="epoch", ylabel=", ".join(SHARES[key] for key in names), ylim=(-0.02, 1.02))
        epochs = [step / steps_per_epoch for step in columns["step"]]
        for place, key in enumerate(names):
            _line(axes, epochs, columns[f"val_{key}"], COLOURS[place % len(COLOURS)], SHARES[key])
        rate = next((key for key in RATES if f"val_{key}" in columns), None)
        if rate is not None:
            factor, label = RATES[rate]
            values = [None if value is None else value * factor for value in columns[f"val_{rate}"]]
            _line(other, epochs, values, MARK, label, style="--")
            # The first epochs may mark everything, the last ones nothing.
            other.set(ylabel=label, yscale="symlog")
            other.yaxis.set_major_formatter(ScalarFormatter())
            other.set_ylim(0, 2 * max(1.0, *(value for value in values if value is not None)))
        at = best["step"] / steps_per_epoch
    axes.axvline(at, color=INK, linewidth=0.8, linestyle=":", label=f"kept ({best['chosen']})")
    handles = [entry for each in (axes, other) for entry in zip(*each.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*handles, strict=True), loc="upper center", ncols=4, frameon=False, fontsize=8)
    axes.grid(True, which="major", linewidth=0.4, color="#cccccc")
    for each in (axes, other):
        each.spines["top"].set_visible(False)
    figure.text(0.5, 0.01, about, fontsize=7.5, color=INK, ha="center", va="bottom")
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _line(axes: Any, xs: list, ys: list, colour: str, label: str, style: str = "-", width: float = 1.4) -> None:
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
    marker = "." if len(points) < 100 else None
    x_values, y_values = zip(*points, strict=True) if points else ((), ())
    axes.plot(
        x_values, y_values, color=colour, linestyle=style, linewidth=width, marker=marker, markersize=4, label=label
    )
