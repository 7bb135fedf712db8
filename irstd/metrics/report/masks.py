"""The report on probability maps against masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from irstd.metrics.curve import FINE, OperatingCurve
from irstd.metrics.report.base import Key, Report
from irstd.metrics.segmentation import SegmentationMetrics, pair_of

SEGMENTATION: tuple[tuple[str, int | None], ...] = (
    ("strict", None),
    ("basicirstd", None),
    ("dnanet", 256),
    ("msda", 512),
)
"""Each protocol on the grid that its tables use."""
RATES = (1e-6, 1e-5, 1e-4)
"""Fa at which reports state the Pd."""


class SegmentationReport(Report):
    """Of probability maps against masks.

    threshold: a pixel is predicted when its probability is greater. protocols: (name, grid) of each row; the first also
    gives bins, curves and rows of images and sequences. pseudo_masks: how the masks were made where they are
    pseudo-masks: no number of their shape (IoU, nIoU, of pixels) is then reported.
    """

    task = "segmentation"

    def __init__(
        self,
        threshold: float = 0.5,
        protocols: Sequence[tuple[str, int | None]] = SEGMENTATION,
        pseudo_masks: str | None = None,
    ) -> None:
        super().__init__(threshold)
        self.protocols = tuple((name, grid) for name, grid in protocols)
        self.pseudo_masks = pseudo_masks
        self._metrics = [SegmentationMetrics(name, threshold, grid) for name, grid in self.protocols]
        name, grid = self.protocols[0]
        self._curves = [OperatingCurve(sorted({*FINE, self.threshold}), name, grid)]

    def update(
        self,
        key: Key,
        probability_HW: np.ndarray,
        mask_HW: np.ndarray,
        *,
        group: str | None = None,
        ignore_K4: np.ndarray | None = None,
        frame_HW: np.ndarray | None = None,
    ) -> None:
        """Add one labelled frame.

        key: its sequence and number. probability_HW in [0, 1], mask_HW of {0, 1}, ignore_K4 (boxes x, y, w, h that are not
        scored) and frame_HW (counts, for bins of SCR) as in `SegmentationMetrics.update`, with its errors. group: what the
        sequence belongs to; itself when not given.
        """
        pairs = {
            grid: pair_of(probability_HW, mask_HW, self.threshold, grid, False, ignore_K4, frame_HW)
            for grid in dict.fromkeys(grid for _, grid in self.protocols)
        }
        rows, sequence = self._enter(key, group), str(key[0])
        matches = [metrics.add(pairs[metrics.grid], sequence) for metrics in self._metrics]
        self._curves[0].update(probability_HW, mask_HW, self._groups[sequence], ignore_K4=ignore_K4)
        first, pair = matches[0], pairs[self.protocols[0][1]]
        rows[int(key[1])] = [
            first.targets,
            first.hits,
            first.false_alarms,
            first.false_alarm_pixels,
            pair.pixels,
            pair.intersection,
            pair.union,
        ]

    def compute(self) -> dict[str, Any]:
        first = self._metrics[0]
        rows = [reported(m.compute() | m.intervals(self.group), self.pseudo_masks) for m in self._metrics]
        return {
            "task": self.task,
            "frames": len(self),
            "sequences": len(self._frames),
            "groups": rows[0]["groups"],
            "threshold": self.threshold,
            "protocols": rows,
            "bins": {"protocol": first.protocol.name, "grid": first.grid} | first.bins(self.group),
            "pd_at_fa": self._curves[0].pd_at(RATES),
        }

    def samples(self) -> list[dict[str, np.ndarray]]:
        found = [reported(metrics.samples(self.group), self.pseudo_masks) for metrics in self._metrics]
        return [{k: v for k, v in values.items() if isinstance(v, np.ndarray)} for values in found]

    def images(self) -> list[dict[str, Any]]:
        names = ("targets", "hits", "false_alarms", "false_alarm_pixels", "pixels", "intersection", "union")
        found = []
        for sequence, frames in self._frames.items():
            for frame, values in frames.items():
                row = {"sequence": sequence, "group": self._groups[sequence], "frame": frame}
                row |= dict(zip(names, values, strict=True))
                row["iou"] = row["intersection"] / row["union"] if row["union"] else None
                if self.pseudo_masks:
                    row |= dict.fromkeys(("intersection", "union", "iou"))
                found.append(row)
        return found

    def sequences(self) -> list[dict[str, Any]]:
        names = ("images", "targets", "hits", "pd", "false_alarms", "false_alarms_per_frame", "fa", "iou", "niou")
        found = []
        for sequence in self._frames:
            values = reported(self._metrics[0].compute([sequence]), self.pseudo_masks)
            row = {"sequence": sequence, "group": self._groups[sequence]}
            found.append(row | {name: values[name] for name in names})
        return found

    def curves(self) -> dict[str, dict[str, list]]:
        values = self._curves[0].compute()
        thresholds = values["thresholds"]
        none = [None] * len(thresholds)
        pd, fa = values["pd"] or none, values["fa"] or none
        pixels = {
            name: none if self.pseudo_masks else values[name] for name in ("pixel_recall", "pixel_precision", "iou")
        }
        return {
            "roc": {"threshold": thresholds, "fa": fa, "pd": pd},
            "froc": {
                "threshold": thresholds,
                "false_alarms_per_frame": values["false_alarms_per_frame"],
                "recall": pd,
            },
            "pr": {"threshold": thresholds, "recall": pd, "precision": values["precision"], **pixels},
        }

    def _parts(self) -> dict[str, list]:
        return {"metrics": self._metrics, "curves": self._curves}

    def _settings(self) -> dict[str, Any]:
        protocols = [list(protocol) for protocol in self.protocols]
        return {"threshold": self.threshold, "protocols": protocols, "pseudo_masks": self.pseudo_masks}


def reported(found: dict[str, Any], pseudo_masks: str | None) -> dict[str, Any]:
    """Computed metrics as they may be shown: where masks are pseudo-masks, IoU and nIoU are None and `withheld` says why.

    Whether a target was found, and how many false alarms there are, a pseudo-mask can tell; its shape is a guess.
    """
    if pseudo_masks is None:
        return found
    withheld: dict[str, Any] = {name: None for name in found if name.startswith(("iou", "niou"))}
    if found.get("intervals"):
        withheld["intervals"] = {k: v for k, v in found["intervals"].items() if k not in withheld}
    return found | withheld | {"withheld": f"no IoU: the masks are pseudo-masks ({pseudo_masks})"}
